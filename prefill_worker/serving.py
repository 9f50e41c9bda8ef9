"""A worker's methods behind a port, with health and reflection."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cachestore.errors import ConfigError, Unavailable
from cachestore.service import listening
from cachestore.service.auth.authority import Authority
from cachestore.service.auth.exposure import Exposure
from cachestore.service.auth.guard import Guard
from cachestore.service.auth.tls import ServerTls
from cachestore.service.budget import Budget
from cachestore.service.health.stalls import Stalls
from cachestore.service.options import SERVER
from cachestore.service.settings import ServiceSettings

SPARE = 16
"""Calls beyond the worker's own bound: aborts and statistics must get through when it is full."""


class Serving:
    """Serves the service with the full name `service`, whose methods `attach` adds to a server."""

    def __init__(
        self, settings: ServiceSettings, section: str, service: str, attach: Callable[[grpc.Server], object]
    ) -> None:
        self._settings = settings
        self._section = section
        self._service = service
        self._attach = attach
        self._exposure = Exposure(settings)
        self._stalls = Stalls(settings.stall)
        self._server: grpc.Server | None = None
        self._health = health.HealthServicer()
        self._address = ""

    @property
    def address(self) -> str:
        """Where clients find it; Unavailable unless it is open."""
        if self._server is None:
            raise Unavailable("the worker is not open")
        return self._address

    def open(self) -> None:
        """Listens and serves. ConfigError if the address cannot be had, or a file of keys cannot be used."""
        calls = self._settings.max_concurrent + SPARE
        settings, budget = self._settings, Budget(calls, "concurrent calls")
        guard = Guard(budget, settings.longest_call, Authority(settings), self._stalls)
        guard.open()
        tls = ServerTls(self._settings)
        if self._settings.tls:
            tls.open()
        self._health = health.HealthServicer()
        server = grpc.server(
            ThreadPoolExecutor(calls + SPARE, thread_name_prefix=self._section),
            interceptors=[guard],
            options=SERVER,
            maximum_concurrent_rpcs=calls + SPARE,
        )
        self._attach(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((self._service, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            self._address = listening.listen(server, self._settings, tls)
        except ConfigError as error:
            raise ConfigError(str(error).replace("service.", f"{self._section}.")) from error
        self._stalls.open()
        server.start()
        self._exposure.open()
        self.tell(healthy=True)
        self._server = server

    def tell(self, healthy: bool) -> None:
        """Whoever asks for health hears this from now on."""
        status = health_pb2.HealthCheckResponse
        for name in ("", self._service):
            self._health.set(name, status.SERVING if healthy else status.NOT_SERVING)

    def close(self, grace: float) -> None:
        """Says NOT_SERVING, gives running calls `grace` seconds to end, cancels the rest. Closing twice is allowed."""
        server, self._server = self._server, None
        if server is None:
            return
        self._health.enter_graceful_shutdown()
        server.stop(grace).wait()
        self._stalls.close()
        self._exposure.close()
        listening.leave(self._settings)
