"""A decode worker, served."""

import grpc

from cachestore.config import Table, build
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.wire import worker_pb2
from cachestore.wire.worker_pb2_grpc import add_DecodeWorkerServicer_to_server
from decode_worker.service import DecodeService
from decode_worker.settings import DecodeSettings
from decode_worker.worker import DecodeWorker
from prefill_worker.stores import Stores
from prefill_worker.worker_server import WorkerServer


class DecodeServer(WorkerServer):
    """A decode worker of the configuration `tables`, of which `engine`, `batch` and `decode_worker` are its sections.

    It uses the store at `store`, finds prefill workers in its cluster map, and is known there as `name` on `node`.
    """

    role = "decode"
    service = worker_pb2.DESCRIPTOR.services_by_name["DecodeWorker"].full_name

    def __init__(self, tables: Table, *, store: str, name: str, node: str = "local") -> None:
        self._settings = build(DecodeSettings, tables.get("decode_worker", {}), "decode_worker")
        super().__init__(tables, self._settings, store, name, node)

    def _begin(self, model: PagedModel, loop: BatchLoop, stores: Stores, limit: int) -> DecodeWorker:
        self.worker = DecodeWorker(model, loop, stores, limit, self._settings, self._store)
        return self.worker

    def _attach(self, server: grpc.Server) -> None:
        service = DecodeService(self.worker, self.name, self._settings.longest_call)
        add_DecodeWorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
