"""The store of one node with its gRPC server, as Ray runs it: pinned there, restarted, found by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cachestore.config import build
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import SECTIONS, compose


def actor_name(node_id: str) -> str:
    """The name under which the store of a node is found."""
    return f"store-{node_id[:12]}"


def store_tables(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that make a store what it is; the others may change while it is up."""
    return {name: tables[name] for name in (*SECTIONS, "service") if name in tables}


class StoreHost:
    """Opens the configured store and serves it on `port`. The class knows nothing of Ray."""

    def __init__(self, tables: Mapping[str, Any], node: str, port: int) -> None:
        self._tables = store_tables(tables)
        settings = replace(build(ServiceSettings, tables.get("service", {}), "service"), port=port)
        self._store = compose({**tables, "store": {**tables.get("store", {}), "node": node}})
        self._store.open()
        self._server = CacheStoreServer(self._store, settings, node)
        try:
            self._server.open()
        except BaseException:
            self._store.close()
            raise

    def address(self) -> str:
        """Where clients find the store."""
        return self._server.address

    def about(self) -> tuple[str, dict[str, Any]]:
        """The address, and the tables of the store."""
        return self.address(), self._tables

    def close(self) -> None:
        """Ends server and store in order."""
        self._server.close()
        self._store.close()
