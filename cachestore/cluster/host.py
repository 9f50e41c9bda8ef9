"""The store of one node with all that serves it; under Ray an actor, pinned there, restarted, found by name."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from cachestore.config import build
from cachestore.service.kv_events import KvEvents
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import SECTIONS, compose


def actor_name(node_id: str) -> str:
    """The name under which the store of a node is found."""
    return f"store-{node_id[:12]}"


def store_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that make a store what it is; the others may change while it is up."""
    return {name: tables[name] for name in (*SECTIONS, "service", "kv_events") if name in tables}


class StoreHost:
    """Opens the configured store and serves it, on `port` instead of the configured one. It knows nothing of Ray."""

    def __init__(self, tables: Mapping[str, Any], node: str, port: int | None = None) -> None:
        self._tables = store_tables(tables)
        settings = build(ServiceSettings, tables.get("service", {}), "service")
        if port is not None:
            settings = replace(settings, port=port)
        events = build(KvEvents, tables.get("kv_events", {}), "kv_events")
        with ExitStack() as opened:
            store = opened.enter_context(compose({**tables, "store": {**tables.get("store", {}), "node": node}}))
            publisher = events.start(store)
            if publisher is not None:
                opened.enter_context(publisher)
            self._server = opened.enter_context(CacheStoreServer(store, settings, node))
            self.tiers = [store.memory.name, *(tier.name for tier in store.lower)]
            self._opened = opened.pop_all()

    def address(self) -> str:
        """Where clients find the store."""
        return self._server.address

    def about(self) -> tuple[str, dict[str, Any]]:
        """The address, and the tables of the store."""
        return self.address(), self._tables

    def close(self) -> None:
        """Ends what serves, then the store."""
        self._opened.close()
