"""One channel to one worker, and what every call over it has in common: identity, a deadline, errors from our tree."""

import math
from collections.abc import Callable
from typing import Any

import grpc

from cachestore.service.auth.credentials import Credentials, Metadata
from cachestore.service.renewed_channel import RenewedChannel
from cachestore.service.stream.watchdog import Replaced, Watched


class WorkerConnection(RenewedChannel):
    """The channel to the worker at `address`; `stub` makes the generated methods over it.

    What the environment names as credentials is shown to it.
    """

    serves, starts = "worker", "cachestore up"

    def __init__(self, address: str, stub: Callable[[grpc.Channel], Any]) -> None:
        super().__init__(address, Credentials.from_environment())
        self._stubs = stub
        self._stub: Any = None

    def call(self, method: str, request: Any, timeout: float) -> Any:
        """The answer of a unary method, within `timeout` seconds."""
        with self.errors(method):
            ask, bites = self._method(method), self._watchdog.bites
            try:
                return ask(request, timeout=timeout, metadata=self._metadata(""))
            except grpc.RpcError as error:
                if self._watchdog.ended(error, bites):
                    raise Replaced(late=False) from error
                raise

    def stream(self, method: str, request: Any, timeout: float, tenant: str, patience: float = math.inf) -> Watched:
        """The answers of a method that streams them, for the tenant whose token this is; iterate within `errors`.

        The worker is taken to hang if none comes for `patience` seconds: then all calls on this connection end.
        """
        with self.errors(method):
            call = self._method(method)(request, timeout=timeout, metadata=self._metadata(tenant))
            return Watched(self._watchdog, call, timeout, patience)

    def _made(self, channel: grpc.Channel) -> None:
        self._stub = self._stubs(channel)

    def _ended(self) -> None:
        self._stub = None

    def _method(self, name: str) -> Any:
        return getattr(self._opened(self._stub), name)

    def _metadata(self, tenant: str) -> Metadata:
        """What says who calls, and for whom; ConfigError if it may not be sent there."""
        return self.credentials.for_tenant(tenant or self.credentials.tenant).metadata(self.address)
