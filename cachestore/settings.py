"""A whole configuration, checked before anything starts.

Sections are folders: `[[tiers]]`, `[codecs]`, `[eviction]` and `[store]` describe the store, the others are one frozen
dataclass each. What is built here is thrown away; every part builds what it needs from the same tables.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from cachestore.config import Table, build, check_keys, read
from cachestore.errors import ConfigError
from cachestore.registry import Catalogue
from cachestore.store.compose import DEFAULT_TIERS, SECTIONS, compose

OTHERS = Catalogue(
    "sections",
    {
        "service": "cachestore.service.settings:ServiceSettings",
        "engine": "cachestore.engine.settings:EngineSettings",
        "cluster": "cachestore.cluster.settings:ClusterSettings",
        "prefill_worker": "prefill_worker.settings:PrefillSettings",
        "decode_worker": "decode_worker.settings:DecodeSettings",
    },
)
NEEDED_BY_WORKERS = "engine"
"""The one section without defaults: only the user knows the model."""


def load(path: Path | None) -> dict[str, Any]:
    """The tables of the file, or the defaults without one; ConfigError for whatever could not work."""
    tables = read(path) if path is not None else {}
    tables.setdefault("tiers", [dict(table) for table in DEFAULT_TIERS])
    check(tables)
    return tables


def check(tables: Table) -> None:
    """ConfigError for the first thing in the tables that could not work."""
    check_keys([*SECTIONS, *OTHERS.places], tables, "")
    compose(tables)
    for name in OTHERS.places:
        if name in tables:
            build(OTHERS.load(name), tables[name], name)


def shown(tables: Table) -> dict[str, Any]:
    """The tables with every default filled in, as they take effect; passwords in URLs are left out."""
    store = compose(tables)
    filled: dict[str, Any] = {
        "tiers": [{"name": table["name"], **_public(table)} for table in tables["tiers"]],
        "codecs": dict(tables.get("codecs", {"name": "lz4"})),
        "eviction": dict(tables.get("eviction", {"name": "lru"})),
        "store": asdict(store.settings),
    }
    for name in OTHERS.places:
        if name in tables or name != NEEDED_BY_WORKERS:
            filled[name] = asdict(build(OTHERS.load(name), tables.get(name, {}), name))
    return filled


def require_engine(tables: Table) -> None:
    """ConfigError unless the tables name a model."""
    if NEEDED_BY_WORKERS not in tables:
        raise ConfigError('workers need a model: write [engine] with model = "directory or hub id"')


def _public(table: Table) -> dict[str, Any]:
    from urllib.parse import urlsplit

    rest = {key: value for key, value in table.items() if key != "name"}
    if "url" in rest and "@" in str(rest["url"]):
        parts = urlsplit(str(rest["url"]))
        rest["url"] = parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]).geturl()
    return rest
