"""The methods of a decode worker on the wire."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import grpc

from cachestore.metrics import Figure
from cachestore.service import convert
from cachestore.service.auth.guard import deadline_of
from cachestore.service.auth.identity import identity_of
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerServicer
from decode_worker.request import answer_message, request
from decode_worker.worker import DecodeWorker


@dataclass(eq=False)
class DecodeService(DecodeWorkerServicer):
    """Each method is a translation to the worker and back; `name` is this worker's in answers."""

    worker: DecodeWorker
    name: str

    def Generate(
        self, request_: wire.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GenerateResponse]:
        """Tokens as they are generated, then the usage."""
        deadline = deadline_of(context, self.worker.settings.longest_call)
        with self.worker.running.enter(request_.request_id, deadline, identity_of(context)) as call:
            if not context.add_callback(call.abort):
                call.abort()
            with closing(self.worker.generate(request(request_), call)) as answers:
                yield from map(answer_message, answers)

    def Abort(self, request_: wire.AbortWorkRequest, context: grpc.ServicerContext) -> wire.AbortWorkResponse:
        """Stops a request at its next step."""
        return wire.AbortWorkResponse(found=self.worker.running.abort(request_.request_id))

    def Stats(self, request_: wire.WorkerStatsRequest, context: grpc.ServicerContext) -> wire.WorkerStatsResponse:
        """Every figure this worker counts."""
        figures = [*self.worker.counters.figures(), Figure("queue", (), len(self.worker.running))]
        return wire.WorkerStatsResponse(name=self.name, figures=convert.figure_messages(figures))
