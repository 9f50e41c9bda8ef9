"""A whole configuration, checked before anything starts.

Sections are folders: `[[tiers]]`, `[codecs]`, `[eviction]` and `[store]` describe the store, `[directory]` how stores
know of each other, `[scheduling]` a policy and what predicts for it; the others are one frozen dataclass each. What is
checked here is thrown away; every part builds what it needs from the same tables.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cachestore.codecs import CODECS
from cachestore.config import Table, build, build_named, check_keys, check_table, read
from cachestore.directory import DIRECTORIES
from cachestore.directory.compose import SECTION as DIRECTORY
from cachestore.directory.compose import compose as compose_directory
from cachestore.errors import ConfigError
from cachestore.eviction import EVICTIONS
from cachestore.registry import Catalogue
from cachestore.scheduling import PREDICTORS, SCHEDULINGS
from cachestore.scheduling.compose import DEFAULT, DEFAULT_PREDICTOR
from cachestore.scheduling.compose import compose as compose_scheduling
from cachestore.sealing import SealingSettings
from cachestore.service.settings import located
from cachestore.store.compose import DEFAULT_TIERS, SECTIONS, compose
from cachestore.tiers import TIERS

if TYPE_CHECKING:
    from cachestore.engine.batch_settings import BatchSettings

OTHERS = Catalogue(
    "sections",
    {
        "service": "cachestore.service.settings:ServiceSettings",
        "kv_events": "cachestore.service.events.kv_events:KvEvents",
        "engine": "cachestore.engine.settings:EngineSettings",
        "batch": "cachestore.engine.batch_settings:BatchSettings",
        "peers": "cachestore.cluster.peer_settings:PeerSettings",
        "cluster": "cachestore.cluster.settings:ClusterSettings",
        "prefill_worker": "prefill_worker.settings:PrefillSettings",
        "decode_worker": "decode_worker.settings:DecodeSettings",
        "gateway": "gateway.settings:GatewaySettings",
    },
)
SECRETS = ("password", "sentinel_password")
"""Settings of a plug, or of a table in it, that nobody is shown."""

WORKERS = ("prefill_worker", "decode_worker")
"""Sections of those that listen too: whether they may where they say depends on what `service` knows of callers."""

OF_SEVERAL = ("durable", "replicas")
"""What `peers` promises by other nodes: of a node alone it would be a promise that nobody keeps."""

SCHEDULING = "scheduling"
"""The section that `batch` takes as a table of its own."""

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
    check_keys([*SECTIONS, DIRECTORY, *OTHERS.places, SCHEDULING], tables, "")
    compose(tables)
    compose_directory(tables)
    batch(tables)
    built = {name: _built(name, tables) for name in OTHERS.places if name in tables}
    if DIRECTORY not in tables:
        for name in OF_SEVERAL:
            if "peers" in built and getattr(built["peers"], name):
                raise ConfigError(
                    f"peers.{name} is for the nodes of a directory, and there is none, so nobody would keep these "
                    'blocks but this node: write [directory] with name = "redis", or leave it out'
                )
    if "cluster" in built and NEEDED_BY_WORKERS in built:
        built["cluster"].check_device(built[NEEDED_BY_WORKERS].device)
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
    if DIRECTORY in tables:
        filled[DIRECTORY] = _filled(DIRECTORIES, tables[DIRECTORY])
    for name in OTHERS.places:
        if name in tables or name != NEEDED_BY_WORKERS:
            filled[name] = asdict(_built(name, tables))
    policy = filled["batch"].pop(SCHEDULING)
    predictor = _filled(PREDICTORS, policy.pop("predictor", DEFAULT_PREDICTOR))
    filled[SCHEDULING] = _filled(SCHEDULINGS, policy) | {"predictor": predictor}
    return filled


def batch(tables: Table) -> "BatchSettings":
    """What the sections `[batch]` and `[scheduling]` say; ConfigError for what could not work."""
    table, policy = tables.get("batch", {}), tables.get(SCHEDULING, DEFAULT)
    check_table(table, "batch")
    if SCHEDULING in table:
        raise ConfigError("batch.scheduling is a section of its own: write [scheduling]")
    compose_scheduling(policy)
    settings: BatchSettings = build(OTHERS.load("batch"), {**table, SCHEDULING: policy}, "batch")
    return settings


def require_engine(tables: Table) -> None:
    """ConfigError unless the tables name a model."""
    if NEEDED_BY_WORKERS not in tables:
        raise ConfigError('no model is named: write [engine] with model = "directory or hub id"')


def _built(name: str, tables: Table) -> Any:
    """A section of `OTHERS`, with its defaults if it is not there."""
    return batch(tables) if name == "batch" else build(OTHERS.load(name), tables.get(name, {}), name)


def _filled(catalogue: Catalogue, table: Table) -> dict[str, Any]:
    """A plug's table with every default; of a URL only what is no secret."""
    return {"name": table["name"], **_shown(asdict(build_named(catalogue, table, catalogue.folder)))}


def _shown(built: dict[str, Any]) -> dict[str, Any]:
    """A table, and those in it, without its secrets; what is not set is left out, which TOML cannot write."""
    if "url" in built:
        built["url"] = _public(str(built["url"]))
    for name in SECRETS:
        if built.get(name):
            built[name] = "***"
    return {
        name: _shown(value) if isinstance(value, dict) else value for name, value in built.items() if value is not None
    }


def _public(url: str) -> str:
    """The URL without user, password and options, which may hold a password as well."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    hidden = "***@" if "@" in parts.netloc else ""
    return parts._replace(netloc=hidden + place, query="***" if parts.query else "").geturl()
