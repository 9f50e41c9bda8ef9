"""A directory from the tables of a configuration: `[directory]`, and `[[tiers]]` for the Redis that it may share."""

from cachestore.config import Table, build_named
from cachestore.directory import DIRECTORIES
from cachestore.directory.base import Directory
from cachestore.tiers import TIERS
from cachestore.tiers.redis import Redis

SECTION = "directory"


def compose(tables: Table) -> Directory | None:
    """The directory that these tables describe, not yet open; None without the section: then each node is alone.

    ConfigError for what could not work.
    """
    if SECTION not in tables:
        return None
    tiers = (build_named(TIERS, table, "tiers") for table in tables.get("tiers", ()) if table.get("name") == "redis")
    tier = next((tier for tier in tiers if isinstance(tier, Redis)), None)
    directory: Directory = build_named(DIRECTORIES, tables[SECTION], SECTION).start(tier)
    return directory
