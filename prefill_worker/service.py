"""The methods of a prefill worker on the wire."""

from collections.abc import Iterator
from contextlib import closing

import grpc

from cachestore.errors import Mismatch
from cachestore.hashing import fingerprint
from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerServicer
from prefill_worker.handoff import told_message
from prefill_worker.prompt import prompt
from prefill_worker.worker import PrefillWorker
from prefill_worker.worker_service import WorkerService


class PrefillService(WorkerService[PrefillWorker], PrefillWorkerServicer):
    """Prefill, and what all workers have."""

    def Prefill(self, request: wire.PrefillRequest, context: grpc.ServicerContext) -> Iterator[wire.PrefillResponse]:
        """Computes the KV of a prompt, stores its blocks, and hands over."""
        asked = convert.key(request.fingerprint, "fingerprint")
        if asked != fingerprint(self.worker.model.spec):
            raise Mismatch(
                "fingerprint: this worker serves another spec; compare model, revision, dtype and block size"
            )
        logprobs = request.logprobs if request.HasField("logprobs") else None
        with self.begun(request.request_id, context) as call:
            with closing(self.worker.prefill(prompt(request), call, logprobs)) as answers:
                yield from map(told_message, answers)
