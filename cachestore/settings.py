"""A whole configuration, checked before anything starts.

Sections are folders: `[[tiers]]`, `[codecs]`, `[eviction]` and `[store]` describe the store, the others are one frozen
dataclass each. What is built here is thrown away; every part builds what it needs from the same tables.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cachestore.codecs import CODECS
from cachestore.config import Table, build, build_named, check_keys, read
from cachestore.errors import ConfigError
from cachestore.eviction import EVICTIONS
from cachestore.registry import Catalogue
from cachestore.sealing import SealingSettings
from cachestore.service.settings import located
from cachestore.store.compose import DEFAULT_TIERS, SECTIONS, compose
from cachestore.tiers import TIERS

OTHERS = Catalogue(
    "sections",
    {
        "service": "cachestore.service.settings:ServiceSettings",
        "kv_events": "cachestore.service.events.kv_events:KvEvents",
        "engine": "cachestore.engine.settings:EngineSettings",
        "cluster": "cachestore.cluster.settings:ClusterSettings",
        "prefill_worker": "prefill_worker.settings:PrefillSettings",
        "decode_worker": "decode_worker.settings:DecodeSettings",
        "gateway": "gateway.settings:GatewaySettings",
    },
)
SECRETS = ("password", "sentinel_password")
"""Settings of a tier that nobody is shown."""

WORKERS = ("prefill_worker", "decode_worker")
"""Sections of those that listen too: whether they may where they say depends on what `service` knows of callers."""

NEEDED_BY_WORKERS = "engine"
"""The one section without defaults: only the user knows the model."""


def load(path: Path | None) -> dict[str, Any]:
    """The tables of the file, or the defaults without one; ConfigError for whatever could not work.

    Files of keys are looked up beside the configuration: who starts the store may stand anywhere.
    """
    tables = located(read(path), path.absolute().parent) if path is not None else {}
    tables.setdefault("tiers", [dict(table) for table in DEFAULT_TIERS])
    check(tables)
    return tables


def check(tables: Table) -> None:
    """ConfigError for the first thing in the tables that could not work."""
    check_keys([*SECTIONS, *OTHERS.places], tables, "")
    compose(tables)
    built = {name: build(OTHERS.load(name), tables[name], name) for name in OTHERS.places if name in tables}
    for name in WORKERS:
        if name in built:
            built[name].service(built.get("service") or OTHERS.load("service")())


def shown(tables: Table) -> dict[str, Any]:
    """The tables with every default filled in, as they take effect; passwords in URLs are left out."""
    store = compose(tables)
    filled: dict[str, Any] = {
        "tiers": [_filled(TIERS, table) for table in tables["tiers"]],
        "codecs": _filled(CODECS, tables.get("codecs", {"name": "lz4"})),
        "eviction": _filled(EVICTIONS, tables.get("eviction", {"name": "lru"})),
        "store": asdict(store.settings),
    }
    if "sealing" in tables:
        filled["sealing"] = asdict(build(SealingSettings, tables["sealing"], "sealing"))
    for name in OTHERS.places:
        if name in tables or name != NEEDED_BY_WORKERS:
            filled[name] = asdict(build(OTHERS.load(name), tables.get(name, {}), name))
    return filled


def require_engine(tables: Table) -> None:
    """ConfigError unless the tables name a model."""
    if NEEDED_BY_WORKERS not in tables:
        raise ConfigError('no model is named: write [engine] with model = "directory or hub id"')


def _filled(catalogue: Catalogue, table: Table) -> dict[str, Any]:
    """A plug's table with every default; of a URL only what is no secret."""
    built = asdict(build_named(catalogue, table, catalogue.folder))
    if "url" in built:
        built["url"] = _public(str(built["url"]))
    for name in SECRETS:
        if built.get(name):
            built[name] = "***"
    return {"name": table["name"], **built}


def _public(url: str) -> str:
    """The URL without user, password and options, which may hold a password as well."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    hidden = "***@" if "@" in parts.netloc else ""
    return parts._replace(netloc=hidden + place, query="***" if parts.query else "").geturl()
