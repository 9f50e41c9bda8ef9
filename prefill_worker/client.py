"""A prefill worker somewhere else."""

import math
import secrets
from collections.abc import Iterator

from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerStub
from prefill_worker.handoff import Told, told
from prefill_worker.prompt import Prompt, prompt_fields
from prefill_worker.worker_client import Answers, WorkerClient


class Prefilling(Answers[Told]):
    """What a prefill worker tells of one prompt."""

    def __iter__(self) -> Iterator[Told]:
        return self.received()


class PrefillClient(WorkerClient):
    """The prefill worker at `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(address, PrefillWorkerStub)

    def prefill(
        self,
        prompt: Prompt,
        fingerprint: bytes,
        *,
        timeout: float,
        logprobs: int | None = None,
        request_id: str = "",
        tenant: str = "",
        silence: float = math.inf,
    ) -> Prefilling:
        """Has the KV of `prompt` computed; errors are raised where the answer is read.

        `fingerprint` is the asker's spec: Mismatch if the worker has another. The lease of the handoff is the caller's
        to release. A worker that says nothing for `silence` seconds is Unavailable, to all that ask it from here. A
        delegate names with `tenant` whom it acts for: the token of it.
        """
        request_id = request_id or secrets.token_hex(16)
        request = wire.PrefillRequest(
            request_id=request_id, fingerprint=fingerprint, logprobs=logprobs, **prompt_fields(prompt)
        )
        call = self._connection.stream("Prefill", request, timeout, tenant, silence)
        return Prefilling(self._connection, "Prefill", call, told, request_id)
