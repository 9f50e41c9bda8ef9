"""One channel to one store, and what every call over it has in common: identity, a deadline, errors from our tree."""

import math
import ssl
import time
from collections.abc import Iterator
from typing import Any

import grpc

from cachestore.errors import Unavailable
from cachestore.service.address import check_address
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tls import client_context
from cachestore.service.renewed_channel import RenewedChannel
from cachestore.service.retries import Retries
from cachestore.service.stream import frames
from cachestore.service.stream.watchdog import Replaced, Watched
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreStub


class Connection(RenewedChannel):
    """The channel to the store at `address`, `host:port` or `unix:/path`; without `credentials` the environment's.

    ConfigError for what is no address.
    """

    serves, starts = "store", "cachestore serve"

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        check_address(address)
        super().__init__(address, Credentials.from_environment() if credentials is None else credentials)
        self.tls: ssl.SSLContext | None = None
        """For plain sockets to the same store, from the files that the channel was made with; None without TLS."""
        self._retries = Retries()
        self._stub: Any = None
        self._read: Any = None
        self._write: Any = None

    def open(self) -> None:
        """As the channel's; ConfigError, too, for credentials that may not be sent to this address."""
        self.credentials.metadata(self.address)
        super().open()

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

    def _made(self, channel: grpc.Channel) -> None:
        speaks = self.credentials.tls and not self.address.startswith("unix:")
        self.tls = client_context(self.credentials) if speaks else None
        self._stub = CacheStoreStub(channel)  # type: ignore[no-untyped-call]
        self._read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)
        self._write = channel.stream_stream(frames.WRITE, frames.serialized, wire.WriteResponse.FromString)

    def _ended(self) -> None:
        self._stub = self._read = self._write = None
