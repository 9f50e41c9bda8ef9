"""A channel that is made anew where the files of its credentials have changed, or where it hangs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, ClassVar

import grpc

from cachestore.errors import ConfigError, Unavailable
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tls import Stamp, stamp
from cachestore.service.channel import open_channel
from cachestore.service.preflight import Preflight, unconnected
from cachestore.service.status import error_of
from cachestore.service.stream.watchdog import Watchdog


class RenewedChannel(ABC):
    """The channel to what serves at `address`; subclasses keep what is called over it.

    A channel keeps the certificates it was made with, so one that cannot connect is made again once there are others.
    One on which an answer is waited for too long is replaced, and all calls on it end: `_watchdog` sees to that.
    """

    serves: ClassVar[str]
    """What should answer there, and `starts`: the command that starts one."""
    starts: ClassVar[str]

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self.credentials = credentials
        self._preflight = Preflight(address, credentials)
        self._watchdog = Watchdog(self._replace)
        self._files: Stamp = ()
        self._lock = Lock()
        self._channel: grpc.Channel | None = None

    def open(self) -> None:
        """Makes the channel; it connects with the first call and again whenever it has to.

        ConfigError for credentials that cannot be used.
        """
        with self._lock:
            if self._channel is None:
                self._make()

    def close(self) -> None:
        """Ends the channel and every call on it. Closing twice is allowed."""
        with self._lock:
            channel, self._channel = self._channel, None
            if channel is not None:
                channel.close()
                self._ended()
        self._watchdog.close()

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
            raise error_of(error, method, self.address, self.serves, self.starts) from error
        except ValueError as error:
            # what gRPC raises for a call on a channel that was closed meanwhile
            raise Unavailable(f"{method}: the connection to {self.address} is closed") from error

    @abstractmethod
    def _made(self, channel: grpc.Channel) -> None:
        """Another channel is used from now on."""

    @abstractmethod
    def _ended(self) -> None:
        """There is no channel any more."""

    def _opened(self, methods: Any) -> Any:
        """What is called over the channel; Unavailable unless it is open."""
        if methods is None:
            raise Unavailable(f"the connection to {self.address} is not open; call open() first")
        return methods

    def _make(self) -> None:
        files = self._stamp()
        channel = open_channel(self.address, self.credentials)
        try:
            self._made(channel)
        except ConfigError:
            channel.close()
            raise
        self._channel, self._files = channel, files

    def _renew(self) -> None:
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
        return stamp(self.credentials.ca, self.credentials.cert, self.credentials.key)
