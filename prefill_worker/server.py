"""A prefill worker, served."""

import grpc

from cachestore.config import Table, build
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.wire import worker_pb2
from cachestore.wire.worker_pb2_grpc import add_PrefillWorkerServicer_to_server
from prefill_worker.service import PrefillService
from prefill_worker.settings import PrefillSettings
from prefill_worker.stores import Stores
from prefill_worker.worker import PrefillWorker
from prefill_worker.worker_server import WorkerServer


class PrefillServer(WorkerServer):
    """A prefill worker of the configuration `tables`, of which `engine`, `batch` and `prefill_worker` are its sections.

    It writes into the store at `store` and is known there as `name` on `node`.
    """

    role = "prefill"
    service = worker_pb2.DESCRIPTOR.services_by_name["PrefillWorker"].full_name

    def __init__(self, tables: Table, *, store: str, name: str, node: str = "local") -> None:
        self._settings = build(PrefillSettings, tables.get("prefill_worker", {}), "prefill_worker")
        super().__init__(tables, self._settings, store, name, node)

    def _begin(self, model: PagedModel, loop: BatchLoop, stores: Stores, limit: int) -> PrefillWorker:
        self.worker = PrefillWorker(model, loop, stores, limit, self._settings)
        return self.worker

    def _attach(self, server: grpc.Server) -> None:
        service = PrefillService(self.worker, self.name, self._settings.longest_call)
        add_PrefillWorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
