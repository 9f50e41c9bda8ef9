"""What asking a worker takes, whichever it is: a connection, abort, figures."""

from collections.abc import Callable
from typing import Any, Self

import grpc

from cachestore.metrics import Figure
from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from prefill_worker.connection import WorkerConnection

TIMEOUT = 10.0


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

    def abort(self, request_id: str, *, timeout: float = TIMEOUT) -> bool:
        """Stops a request; whether it was there."""
        request = wire.AbortWorkRequest(request_id=request_id)
        with self._connection.errors("Abort"):
            found: bool = self._connection.stub.Abort(
                request, timeout=timeout, metadata=self._connection.metadata()
            ).found
        return found

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        """Every figure the worker counts."""
        with self._connection.errors("Stats"):
            stats, metadata = self._connection.stub.Stats, self._connection.metadata()
            return convert.figures(stats(wire.WorkerStatsRequest(), timeout=timeout, metadata=metadata).figures)
