"""One channel to one worker, and what every call over it has in common: identity, a deadline, errors from our tree."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import grpc

from cachestore.errors import ConfigError, Unavailable
from cachestore.service.auth.credentials import Credentials, Metadata
from cachestore.service.auth.tls import Stamp, stamp
from cachestore.service.channel import open_channel
from cachestore.service.preflight import Preflight, unconnected
from cachestore.service.status import error_of
from cachestore.service.stream.watchdog import Replaced, Watchdog, Watched


class WorkerConnection:
    """The channel to the worker at `address`; `stub` makes the generated methods over it.

    What the environment names as credentials is shown to it. A channel that cannot connect is made anew where their
    files have changed, and one on which a message is waited for too long with all calls on it.
    """

    def __init__(self, address: str, stub: Callable[[grpc.Channel], Any]) -> None:
        self.address = address
        self._stubs = stub
        self._credentials = Credentials.from_environment()
        self._preflight = Preflight(address, self._credentials)
        self._watchdog = Watchdog(self._replace)
        self._files: Stamp = ()
        self._lock = Lock()
        self._channel: grpc.Channel | None = None
        self._stub: Any = None

    def open(self) -> None:
        """Makes the channel; it connects with the first call and again whenever it has to."""
        with self._lock:
            if self._channel is None:
                self._make()

    def close(self) -> None:
        """Ends the channel and every call on it. Closing twice is allowed."""
        with self._lock:
            channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()
        self._watchdog.close()

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

    @contextmanager
    def errors(self, method: str) -> Iterator[None]:
        """Turns what gRPC raises inside into our errors."""
        try:
            yield
        except grpc.RpcError as error:
            if unconnected(error):
                # before the look, which reads the files as they are now: to it all may be well with new ones
                self._renew()
            self._preflight.explain(error)
            raise error_of(error, method, self.address, "worker", "cachestore up") from error
        except ValueError as error:
            # what gRPC raises for a call on a channel that was closed meanwhile
            raise Unavailable(f"{method}: the connection to {self.address} is closed") from error

    def _method(self, name: str) -> Any:
        stub = self._stub
        if stub is None:
            raise Unavailable(f"the connection to {self.address} is not open; call open() first")
        return getattr(stub, name)

    def _metadata(self, tenant: str) -> Metadata:
        """What says who calls, and for whom; ConfigError if it may not be sent there."""
        return self._credentials.for_tenant(tenant or self._credentials.tenant).metadata(self.address)

    def _make(self) -> None:
        files = self._stamp()
        self._channel = open_channel(self.address, self._credentials)
        self._stub, self._files = self._stubs(self._channel), files

    def _renew(self) -> None:
        """A channel keeps the certificates it was made with: where other ones are there by now, makes another."""
        if self._stamp() != self._files:
            self._replace()

    def _replace(self) -> None:
        """Makes another channel for the calls to come, and ends those there are."""
        # with files that cannot be read just now the old one has to do, and this is tried again
        with suppress(ConfigError), self._lock:
            old = self._channel
            if old is not None:
                self._make()
                old.close()

    def _stamp(self) -> Stamp:
        return stamp(self._credentials.ca, self._credentials.cert, self._credentials.key)
