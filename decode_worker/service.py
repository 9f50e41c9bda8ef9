"""The methods of a decode worker on the wire."""

from collections.abc import Iterator
from contextlib import closing

import grpc

from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerServicer
from decode_worker.request import answer_message, request
from decode_worker.worker import DecodeWorker
from prefill_worker.worker_service import WorkerService


class DecodeService(WorkerService[DecodeWorker], DecodeWorkerServicer):
    """Generate, and what all workers have."""

    def Generate(
        self, request_: wire.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.GenerateResponse]:
        """Tokens as they are generated, then the usage."""
        with self.begun(request_.request_id, context) as call:
            with closing(self.worker.generate(request(request_), call)) as answers:
                yield from map(answer_message, answers)
