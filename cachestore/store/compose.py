"""A store from the tables of a configuration: `[[tiers]]`, `[codecs]`, `[eviction]`, `[sealing]`, `[store]`."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from cachestore.codecs import CODECS
from cachestore.config import Table, build, build_named
from cachestore.errors import ConfigError
from cachestore.eviction import EVICTIONS
from cachestore.eviction.base import Eviction
from cachestore.sealing import SealingSettings
from cachestore.store.settings import StoreSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers import TIERS
from cachestore.tiers.base import ColdTier, Demoting
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.encrypted import EncryptedTier

SECTIONS = ("tiers", "codecs", "eviction", "sealing", "store")
DEFAULT_TIERS: Sequence[Table] = ({"name": "cpu", "capacity": "1GiB"},)


def compose(tables: Table) -> TieredStore:
    """The store that these tables describe, not yet open; other sections are not looked at."""
    tiers = tables.get("tiers", DEFAULT_TIERS)
    if not isinstance(tiers, list | tuple) or not tiers or not all(isinstance(table, Mapping) for table in tiers):
        raise ConfigError("tiers must be a list of tables: write [[tiers]] for each, the cpu tier first")
    settings: list[Any] = [
        build_named(TIERS, table, f"tiers.{table['name']}" if "name" in table else f"tiers[{index}]")
        for index, table in enumerate(tiers)
    ]
    names = [str(table["name"]) for table in tiers]
    if len(set(names)) != len(names):
        raise ConfigError(f"tiers: each tier may be there once, got {', '.join(names)}")
    if not isinstance(settings[0], Cpu):
        raise ConfigError(f"tiers: the first must be the cpu tier, through which every block goes, got {names[0]!r}")
    store = build(StoreSettings, tables.get("store", {}), "store")
    eviction: Eviction = build_named(EVICTIONS, tables.get("eviction", {"name": "lru"}), "eviction")
    lower: list[ColdTier] = [tier.start(eviction) for tier in settings[1:]]
    cold = [tier for tier in lower if not tier.hot]
    if store.write == "eviction":
        for upper, below in pairwise(cold):
            if isinstance(upper, Demoting):
                upper.below = below
    if "sealing" in tables:
        sealer = build(SealingSettings, tables["sealing"], "sealing").start()
        cold = [EncryptedTier(tier, sealer) for tier in cold]
    return TieredStore(
        memory=settings[0].start(),
        cold=cold,
        hot=[tier for tier in lower if tier.hot],
        codec=build_named(CODECS, tables.get("codecs", {"name": "lz4"}), "codecs"),
        eviction=eviction,
        settings=store,
        sealed="sealing" in tables,
    )
