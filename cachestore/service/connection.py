"""One channel to one store, and what every call over it has in common: a deadline, and errors from our tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cachestore.errors import Unavailable
from cachestore.service import frames
from cachestore.service.options import CLIENT
from cachestore.service.status import error_of
from cachestore.wire import store_pb2 as wire
from cachestore.wire.store_pb2_grpc import CacheStoreStub


class Connection:
    """The channel to the store at `address`, `host:port` or `unix:/path`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel: grpc.Channel | None = None
        self._stub: Any = None
        self._read: Any = None
        self._write: Any = None

    def open(self) -> None:
        """Makes the channel; it connects with the first call and again whenever it has to."""
        if self._channel is None:
            self._channel = channel = grpc.insecure_channel(self.address, options=CLIENT)
            self._stub = CacheStoreStub(channel)  # type: ignore[no-untyped-call]
            self._read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)
            self._write = channel.stream_stream(frames.WRITE, frames.serialized, wire.WriteResponse.FromString)

    def close(self) -> None:
        """Ends the channel and every call on it. Closing twice is allowed."""
        if self._channel is not None:
            self._channel.close()
            self._channel = self._stub = self._read = self._write = None

    def read(self, request: wire.ReadRequest, timeout: float) -> Any:
        """The answers of a Read, frames as `frames.BlockFrame`."""
        return self._opened(self._read)(request, timeout=timeout)

    def write(self, requests: Iterator[Any], timeout: float) -> Any:
        """The answers of a Write of `requests`, frames among them serialized already."""
        return self._opened(self._write)(requests, timeout=timeout)

    def call(self, method: str, request: Any, timeout: float) -> Any:
        """The answer of a unary method, within `timeout` seconds."""
        with self.errors(method):
            return getattr(self._opened(self._stub), method)(request, timeout=timeout)

    @contextmanager
    def errors(self, method: str) -> Iterator[None]:
        """Turns what gRPC raises inside into our errors."""
        try:
            yield
        except grpc.RpcError as error:
            raise error_of(error, method, self.address) from error
        except ValueError as error:
            # what gRPC raises for a call on a channel that was closed meanwhile
            raise Unavailable(f"the connection to {self.address} is closed") from error

    def _opened(self, methods: Any) -> Any:
        if methods is None:
            raise Unavailable(f"the connection to {self.address} is not open; call open() first")
        return methods
