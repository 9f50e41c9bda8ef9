"""What asking a worker takes, whichever it is: a connection, streamed answers, abort, figures."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

import grpc

from cachestore.errors import Aborted
from cachestore.metrics import Figure
from cachestore.service import convert
from cachestore.service.stream.watchdog import Watched
from cachestore.wire import worker_pb2 as wire
from prefill_worker.connection import WorkerConnection

TIMEOUT = 10.0
T = TypeVar("T")


class Answers(Generic[T]):
    """What a worker answers to one request, as it comes. Leaving it as a context cancels the request."""

    def __init__(
        self, connection: WorkerConnection, method: str, call: Watched, parse: Callable[[Any], T], request_id: str
    ) -> None:
        self.request_id = request_id
        self._connection = connection
        self._method = method
        self._call = call
        self._parse = parse
        self._cancelled = False

    def received(self) -> Iterator[T]:
        """Each answer; Aborted once it was cancelled here."""
        with self._connection.errors(self._method):
            try:
                for message in self._call:
                    yield self._parse(message)
            except grpc.RpcError:
                if not self._cancelled:
                    raise
                raise Aborted("the request was cancelled here") from None

    def cancel(self) -> None:
        """Ends the request; the worker stops with its next step. Does nothing behind the end."""
        self._cancelled = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()


class WorkerClient:
    """The worker at `address`; `stub` makes the generated methods of its service."""

    def __init__(self, address: str, stub: Callable[[grpc.Channel], Any]) -> None:
        self._connection = WorkerConnection(address, stub)

    def open(self) -> None:
        """Gets ready to call; the first call connects."""
        self._connection.open()

    def close(self) -> None:
        """Ends every call. Closing twice is allowed."""
        self._connection.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def abort(self, request_id: str, *, finish: bool = False, timeout: float = TIMEOUT) -> bool:
        """Stops a request; whether it was there. With `finish`, a generation ends well with what there is."""
        request = wire.AbortWorkRequest(request_id=request_id, finish=finish)
        found: bool = self._connection.call("Abort", request, timeout).found
        return found

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        """Every figure the worker counts."""
        return convert.figures(self._connection.call("Stats", wire.WorkerStatsRequest(), timeout).figures)
