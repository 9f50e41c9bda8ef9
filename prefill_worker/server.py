"""A prefill worker, served."""

from cachestore.config import Table, build
from cachestore.engine.hf import HfEngine
from cachestore.engine.settings import EngineSettings
from cachestore.service.client import RemoteStore
from cachestore.service.settings import ServiceSettings
from cachestore.wire import worker_pb2
from cachestore.wire.worker_pb2_grpc import add_PrefillWorkerServicer_to_server
from prefill_worker.service import PrefillService
from prefill_worker.serving import Serving
from prefill_worker.settings import PrefillSettings
from prefill_worker.worker import PrefillWorker
from prefill_worker.worker_server import WorkerServer

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["PrefillWorker"].full_name


class PrefillServer(WorkerServer):
    """A prefill worker of the configuration `tables`, of which `engine` and `prefill_worker` are its sections.

    It writes into the store at `store` and is known there as `name` on `node`.
    """

    role = "prefill"

    def __init__(self, tables: Table, *, store: str, name: str, node: str = "local") -> None:
        settings = build(PrefillSettings, tables.get("prefill_worker", {}), "prefill_worker")
        engine = HfEngine(build(EngineSettings, tables.get("engine", {}), "engine"))
        remote = RemoteStore(store, codec=settings.codec)
        self.worker = PrefillWorker(engine, remote, store, settings)
        service = PrefillService(self.worker, name)
        serving = Serving(
            settings.service(build(ServiceSettings, tables.get("service", {}), "service")), "prefill_worker", SERVICE,
            lambda server: add_PrefillWorkerServicer_to_server(service, server),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        super().__init__(engine, remote, self.worker, serving, name, node)
