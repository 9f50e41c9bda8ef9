"""What the methods of workers have in common on the wire."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

from cachestore.service import convert
from cachestore.service.auth.guard import deadline_of
from cachestore.service.auth.identity import identity_of
from cachestore.wire import worker_pb2 as wire
from prefill_worker.base import Worker
from prefill_worker.call import Call

W = TypeVar("W", bound=Worker)


@dataclass(eq=False)
class WorkerService(Generic[W]):
    """Each method is a translation to the worker and back; `name` is this worker's in answers."""

    worker: W
    name: str
    longest_call: float

    @contextmanager
    def begun(self, request_id: str, context: grpc.ServicerContext) -> Iterator[Call]:
        """The request of whoever calls is under way inside the context; it is given up when they leave."""
        deadline = deadline_of(context, self.longest_call)
        with self.worker.running.enter(request_id, deadline, identity_of(context)) as call:
            if not context.add_callback(call.abort):
                call.abort()
            yield call

    def Abort(self, request: wire.AbortWorkRequest, context: grpc.ServicerContext) -> wire.AbortWorkResponse:
        """Ends a request before its next step."""
        return wire.AbortWorkResponse(found=self.worker.running.abort(request.request_id, finish=request.finish))

    def Stats(self, request: wire.WorkerStatsRequest, context: grpc.ServicerContext) -> wire.WorkerStatsResponse:
        """Every figure this worker counts."""
        return wire.WorkerStatsResponse(name=self.name, figures=convert.figure_messages(self.worker.figures()))
