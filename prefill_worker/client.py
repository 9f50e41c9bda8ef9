"""A prefill worker somewhere else."""

import secrets

from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerStub
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff, handoff
from prefill_worker.prompt import Prompt, prompt_fields
from prefill_worker.worker_client import WorkerClient


class PrefillClient(WorkerClient):
    """The prefill worker at `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(address, PrefillWorkerStub)

    def prefill(
        self, prompt: Prompt, fingerprint: bytes, *, timeout: float, request_id: str = "", call: Call | None = None
    ) -> Handoff:
        """A handoff of `prompt`, whose lease is the caller's to use or release.

        `fingerprint` is the asker's spec: Mismatch if the worker has another. Aborting `call` cancels the request,
        and the worker acts for the same tenant as it.
        """
        request = wire.PrefillRequest(
            request_id=request_id or secrets.token_hex(16), fingerprint=fingerprint, **prompt_fields(prompt)
        )
        metadata = self._connection.metadata(call.caller.tenant if call is not None else "")
        with self._connection.errors("Prefill"):
            future = self._connection.stub.Prefill.future(request, timeout=timeout, metadata=metadata)
            if call is None:
                return handoff(future.result())
            with call.cancelling(future.cancel):
                return handoff(future.result())
