"""A prefill worker somewhere else."""

import secrets
from typing import Self

from cachestore.metrics import Figure
from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerStub
from prefill_worker.call import Call
from prefill_worker.connection import WorkerConnection
from prefill_worker.handoff import Handoff, handoff
from prefill_worker.prompt import Prompt, prompt_fields

TIMEOUT = 10.0


class PrefillClient:
    """The prefill worker at `address`."""

    def __init__(self, address: str) -> None:
        self._connection = WorkerConnection(address, PrefillWorkerStub)

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

    def prefill(
        self, prompt: Prompt, fingerprint: bytes, *, timeout: float, request_id: str = "", call: Call | None = None
    ) -> Handoff:
        """A handoff of `prompt`, whose lease is the caller's to use or release.

        `fingerprint` is the asker's spec: Mismatch if the worker has another. Aborting `call` cancels the request.
        """
        request = wire.PrefillRequest(
            request_id=request_id or secrets.token_hex(16), fingerprint=fingerprint, **prompt_fields(prompt)
        )
        with self._connection.errors("Prefill"):
            future = self._connection.stub.Prefill.future(request, timeout=timeout)
            if call is None:
                return handoff(future.result())
            with call.cancelling(future.cancel):
                return handoff(future.result())

    def abort(self, request_id: str, *, timeout: float = TIMEOUT) -> bool:
        """Stops a request; whether it was there."""
        with self._connection.errors("Abort"):
            found: bool = self._connection.stub.Abort(
                wire.AbortWorkRequest(request_id=request_id), timeout=timeout
            ).found
        return found

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        """Every figure the worker counts."""
        with self._connection.errors("Stats"):
            return convert.figures(self._connection.stub.Stats(wire.WorkerStatsRequest(), timeout=timeout).figures)
