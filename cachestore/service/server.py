"""A store, served."""

from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cachestore.errors import Unavailable
from cachestore.service import listening
from cachestore.service.budget import Budget
from cachestore.service.guard import Guard
from cachestore.service.members import Members
from cachestore.service.options import SERVER
from cachestore.service.servicer import Servicer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.wire import store_pb2
from cachestore.wire.store_pb2_grpc import add_CacheStoreServicer_to_server

SERVICE = store_pb2.DESCRIPTOR.services_by_name["CacheStore"].full_name

SPARE = 16
"""Threads beyond `max_concurrent`: calls that are refused, health and reflection need one for a moment."""


class CacheStoreServer:
    """Serves an open `store` under `settings`; `node` is this node's name in answers. The store stays the caller's."""

    def __init__(self, store: TieredStore, settings: ServiceSettings, node: str = "local") -> None:
        self._store = store
        self._settings = settings
        self._node = node
        self.calls = Budget(settings.max_concurrent, "concurrent calls")
        self.bytes_in_flight = Budget(settings.in_flight_bytes, "bytes in flight")
        self.members = Members()
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor
        self._health = health.HealthServicer()
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it; only while it is open."""
        if self._server is None:
            raise Unavailable("the server is not open")
        return self._address

    def open(self) -> None:
        """Listens and serves. ConfigError if the address cannot be had."""
        threads = self._settings.max_concurrent + SPARE
        self._health = health.HealthServicer()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cachestore-service")
        server = grpc.server(
            self._threads,
            interceptors=[Guard(self.calls, self._settings.longest_call)],
            options=SERVER,
            maximum_concurrent_rpcs=threads,
        )
        servicer = Servicer(self._store, self._settings, self.members, self.bytes_in_flight, self._node)
        add_CacheStoreServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._address = listening.listen(server, self._settings)
        server.start()
        for service in ("", SERVICE):
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        self._server = server

    def close(self, grace: float = 1.0) -> None:
        """Says NOT_SERVING, gives running calls `grace` seconds to end, cancels the rest. Closing twice is allowed."""
        if self._server is None:
            return
        self._health.enter_graceful_shutdown()
        self._server.stop(grace).wait()
        self._server = None
        self._threads.shutdown(wait=False)
        listening.leave(self._settings)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
