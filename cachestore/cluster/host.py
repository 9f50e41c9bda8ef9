"""The store of one node with its gRPC server, as Ray runs it: pinned there, restarted, found by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cachestore.config import build
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose


def actor_name(node_id: str) -> str:
    """The name under which the store of a node is found."""
    return f"store-{node_id[:12]}"


class StoreHost:
    """Opens the configured store and serves it on `port`. The class knows nothing of Ray."""

    def __init__(self, tables: Mapping[str, Any], node: str, port: int) -> None:
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

    def close(self) -> None:
        """Ends server and store in order."""
        self._server.close()
        self._store.close()
