"""A decode worker, served."""

from cachestore.config import Table, build
from cachestore.engine.hf import HfEngine
from cachestore.engine.settings import EngineSettings
from cachestore.service.client import RemoteStore
from cachestore.service.settings import ServiceSettings
from cachestore.wire import worker_pb2
from cachestore.wire.worker_pb2_grpc import add_DecodeWorkerServicer_to_server
from decode_worker.service import DecodeService
from decode_worker.settings import DecodeSettings
from decode_worker.worker import DecodeWorker
from prefill_worker.serving import Serving
from prefill_worker.worker_server import WorkerServer

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["DecodeWorker"].full_name


class DecodeServer(WorkerServer):
    """A decode worker of the configuration `tables`, of which `engine` and `decode_worker` are its sections.

    It uses the store at `store`, finds prefill workers in its cluster map, and is known there as `name` on `node`.
    """

    role = "decode"

    def __init__(self, tables: Table, *, store: str, name: str, node: str = "local") -> None:
        settings = build(DecodeSettings, tables.get("decode_worker", {}), "decode_worker")
        engine = HfEngine(build(EngineSettings, tables.get("engine", {}), "engine"))
        remote = RemoteStore(store, codec=settings.codec)
        self.worker = DecodeWorker(engine, remote, store, settings)
        service = DecodeService(self.worker, name)
        serving = Serving(
            settings.service(build(ServiceSettings, tables.get("service", {}), "service")), "decode_worker", SERVICE,
            lambda server: add_DecodeWorkerServicer_to_server(service, server),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        super().__init__(engine, remote, self.worker, serving, name, node)
