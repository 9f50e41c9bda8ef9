"""The methods of a prefill worker on the wire."""

from dataclasses import dataclass

import grpc

from cachestore.errors import Mismatch
from cachestore.hashing import fingerprint
from cachestore.metrics import Figure
from cachestore.service import convert
from cachestore.service.auth.guard import deadline_of
from cachestore.service.auth.identity import identity_of
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerServicer
from prefill_worker.handoff import handoff_message
from prefill_worker.prompt import prompt
from prefill_worker.worker import PrefillWorker


@dataclass(eq=False)
class PrefillService(PrefillWorkerServicer):
    """Each method is a translation to the worker and back; `name` is this worker's in answers."""

    worker: PrefillWorker
    name: str

    def Prefill(self, request: wire.PrefillRequest, context: grpc.ServicerContext) -> wire.Handoff:
        """Computes the KV of a prompt, stores its blocks, and hands over."""
        asked = convert.key(request.fingerprint, "fingerprint")
        if asked != fingerprint(self.worker.engine.spec):
            raise Mismatch(
                "fingerprint: this worker serves another spec; compare model, revision, dtype and block size"
            )
        deadline = deadline_of(context, self.worker.settings.longest_call)
        with self.worker.running.enter(request.request_id, deadline, identity_of(context)) as call:
            if not context.add_callback(call.abort):
                call.abort()
            handoff = self.worker.prefill(prompt(request), call)
            if call.aborted:
                self.worker.give_up(handoff, call.caller)
                call.check("handing over")
            return handoff_message(handoff)

    def Abort(self, request: wire.AbortWorkRequest, context: grpc.ServicerContext) -> wire.AbortWorkResponse:
        """Stops a request at its next chunk."""
        return wire.AbortWorkResponse(found=self.worker.running.abort(request.request_id))

    def Stats(self, request: wire.WorkerStatsRequest, context: grpc.ServicerContext) -> wire.WorkerStatsResponse:
        """Every figure this worker counts."""
        figures = [*self.worker.counters.figures(), Figure("queue", (), len(self.worker.running))]
        return wire.WorkerStatsResponse(name=self.name, figures=convert.figure_messages(figures))
