"""One channel to one worker, and errors from our tree."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from cachestore.errors import Unavailable
from cachestore.service.auth.credentials import Credentials, Metadata
from cachestore.service.channel import open_channel
from cachestore.service.preflight import Preflight
from cachestore.service.status import error_of


class WorkerConnection:
    """The channel to the worker at `address`; `stub` makes the generated methods over it.

    What the environment names as credentials is shown to it.
    """

    def __init__(self, address: str, stub: Callable[[grpc.Channel], Any]) -> None:
        self.address = address
        self._make = stub
        self._credentials = Credentials.from_environment()
        self._preflight = Preflight(address, self._credentials)
        self._channel: grpc.Channel | None = None
        self._stub: Any = None

    def open(self) -> None:
        """Makes the channel; it connects with the first call and again whenever it has to."""
        if self._channel is None:
            self._channel = open_channel(self.address, self._credentials)
            self._stub = self._make(self._channel)

    def close(self) -> None:
        """Ends the channel and every call on it. Closing twice is allowed."""
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()

    @property
    def stub(self) -> Any:
        """The generated methods; Unavailable unless open."""
        if self._stub is None:
            raise Unavailable(f"the connection to {self.address} is not open; call open() first")
        return self._stub

    def metadata(self, tenant: str = "") -> Metadata:
        """What says who calls, and for whom; it goes with every call. ConfigError if it may not be sent there."""
        return self._credentials.for_tenant(tenant or self._credentials.tenant).metadata(self.address)

    @contextmanager
    def errors(self, method: str) -> Iterator[None]:
        """Turns what gRPC raises inside into our errors."""
        try:
            yield
        except grpc.RpcError as error:
            self._preflight.explain(error)
            raise error_of(error, method, self.address, "worker", "cachestore up") from error
        except (ValueError, grpc.FutureCancelledError) as error:
            raise Unavailable(f"{method}: the connection to {self.address} is closed") from error
