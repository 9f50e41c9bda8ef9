"""One channel to one store, and what every call over it has in common: identity, a deadline, errors from our tree."""

import math
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any

import grpc

from cachestore.errors import ConfigError, Unavailable
from cachestore.service.address import check_address
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tls import Stamp, client_context, stamp
from cachestore.service.channel import open_channel
from cachestore.service.preflight import Preflight, unconnected
from cachestore.service.retries import Retries
from cachestore.service.status import error_of
from cachestore.service.stream import frames
from cachestore.service.stream.watchdog import Replaced, Watchdog, Watched
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreStub


class Connection:
    """The channel to the store at `address`, `host:port` or `unix:/path`; without `credentials` the environment's.

    ConfigError for what is no address.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        check_address(address)
        self.address = address
        self.credentials = Credentials.from_environment() if credentials is None else credentials
        self._preflight = Preflight(address, self.credentials)
        self.tls: ssl.SSLContext | None = None
        """For plain sockets to the same store, from the files that the channel was made with; None without TLS."""
        self._files: Stamp = ()
        self._lock = Lock()
        self._retries = Retries()
        self._watchdog = Watchdog(self._replace)
        self._channel: grpc.Channel | None = None
        self._stub: Any = None
        self._read: Any = None
        self._write: Any = None

    def open(self) -> None:
        """Makes the channel; it connects with the first call and again whenever it has to.

        ConfigError for credentials that cannot be used, or may not be sent to this address.
        """
        with self._lock:
            if self._channel is None:
                self.credentials.metadata(self.address)
                self._make()

    def close(self) -> None:
        """Ends the channel and every call on it. Closing twice is allowed."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = self._stub = self._read = self._write = None
        self._watchdog.close()

    def read(self, request: wire.ReadRequest, timeout: float) -> frames.Unjoined:
        """The answers of a Read, frames as `frames.BlockFrame`."""
        request.joined = True
        return frames.Unjoined(self._watched(self._read, request, timeout))

    def write(self, requests: Iterator[Any], timeout: float) -> Watched:
        """The answers of a Write of `requests`, frames among them serialized already."""
        return self._watched(self._write, requests, timeout)

    def watch(self, request: wire.WatchRequest, timeout: float, patience: float) -> Watched:
        """The answers of a Watch; the connection is made anew if none comes for `patience` seconds."""
        return self._watched(None if self._stub is None else self._stub.Watch, request, timeout, patience)

    def call(self, method: str, request: Any, timeout: float) -> Any:
        """The answer of a unary method, within `timeout` seconds; the answers of one that streams them."""
        begun = time.monotonic()
        with self.errors(method):
            try:
                answer = self._called(method, request, timeout)
            except grpc.RpcError as error:
                if not self._retries.again(method, error, time.monotonic() - begun, timeout):
                    raise
                answer = self._called(method, request, max(begun + timeout - time.monotonic(), 1e-3))
            if answer is None:
                # gRPC gives this for a call that ended well and brought no message
                raise Unavailable(f"the store at {self.address} ended {method} without an answer")
            self._retries.earn()
            return answer

    def _called(self, method: str, request: Any, timeout: float) -> Any:
        call, bites = getattr(self._opened(self._stub), method), self._watchdog.bites
        try:
            return call(request, timeout=timeout, metadata=self.credentials.metadata(self.address))
        except grpc.RpcError as error:
            if self._watchdog.ended(error, bites):
                raise Replaced(late=False) from error
            raise

    def _watched(self, method: Any, given: Any, timeout: float, patience: float = math.inf) -> Watched:
        call = self._opened(method)(given, timeout=timeout, metadata=self.credentials.metadata(self.address))
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
            raise error_of(error, method, self.address) from error
        except ValueError as error:
            # what gRPC raises for a call on a channel that was closed meanwhile
            raise Unavailable(f"the connection to {self.address} is closed") from error

    def _make(self) -> None:
        files, speaks = self._stamp(), self.credentials.tls and not self.address.startswith("unix:")
        tls = client_context(self.credentials) if speaks else None
        self._channel = channel = open_channel(self.address, self.credentials)
        self._files, self.tls = files, tls
        self._stub = CacheStoreStub(channel)  # type: ignore[no-untyped-call]
        self._read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)
        self._write = channel.stream_stream(frames.WRITE, frames.serialized, wire.WriteResponse.FromString)

    def _renew(self) -> None:
        """A channel keeps the certificates it was made with: where it cannot connect and other ones are there by now,
        makes another for the calls to come."""
        with suppress(ConfigError), self._lock:
            old = self._channel
            if old is not None and self._stamp() != self._files:
                self._make()
                old.close()

    def _replace(self) -> None:
        """Makes another channel for the calls to come, and ends those there are."""
        # with files that cannot be read just now the old one has to do, and this is tried again
        with suppress(ConfigError), self._lock:
            old = self._channel
            if old is not None:
                self._make()
                old.close()

    def _stamp(self) -> Stamp:
        return stamp(self.credentials.ca, self.credentials.cert, self.credentials.key)

    def _opened(self, methods: Any) -> Any:
        if methods is None:
            raise Unavailable(f"the connection to {self.address} is not open; call open() first")
        return methods
