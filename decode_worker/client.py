"""A decode worker somewhere else."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import grpc

from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted
from cachestore.wire.worker_pb2_grpc import DecodeWorkerStub
from decode_worker.request import Request, Usage, answer, request_message
from prefill_worker.connection import WorkerConnection
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.worker_client import WorkerClient

GENERATE_TIMEOUT = 300.0


class Answer:
    """The token ids of one request as they come; `usage` is there behind the last one. Leaving the context cancels."""

    def __init__(self, connection: WorkerConnection, call: Any, request_id: str) -> None:
        self._connection = connection
        self._call = call
        self._cancelled = False
        self.request_id = request_id
        self.usage: Usage | None = None

    def __iter__(self) -> Iterator[int]:
        with self._connection.errors("Generate"):
            try:
                for message in self._call:
                    what = answer(message)
                    if isinstance(what, Usage):
                        self.usage = what
                    else:
                        yield what.id
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


class DecodeClient(WorkerClient):
    """The decode worker at `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(address, DecodeWorkerStub)

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop_tokens: Iterable[int] = (),
        cache: CacheUse = CacheUse.READ_AND_WRITE,
        salts: Sequence[bytes] = (),
        request_id: str = "",
        timeout: float = GENERATE_TIMEOUT,
        tenant: str = "",
    ) -> Answer:
        """Asks for tokens behind `tokens`; errors are raised where the answer is read.

        A delegate names with `tenant` whom it acts for: the token of it, where it is not among its credentials.
        """
        prompt = Prompt(tokens, sampling or Sampling(), cache, tuple(salts))
        request_id = request_id or secrets.token_hex(16)
        message = request_message(Request(prompt, max_tokens, frozenset(stop_tokens)), request_id)
        with self._connection.errors("Generate"):
            call = self._connection.stub.Generate(message, timeout=timeout, metadata=self._connection.metadata(tenant))
        return Answer(self._connection, call, request_id)
