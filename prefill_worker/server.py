"""A prefill worker, served: engine, store, port and heartbeat."""

import os
from typing import Self

from cachestore.config import Table, build
from cachestore.engine.hf import HfEngine
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import fingerprint
from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member
from cachestore.wire import worker_pb2
from cachestore.wire.worker_pb2_grpc import add_PrefillWorkerServicer_to_server
from prefill_worker.service import PrefillService
from prefill_worker.serving import Serving
from prefill_worker.settings import PrefillSettings
from prefill_worker.worker import PrefillWorker

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["PrefillWorker"].full_name

DRAIN_SECONDS = 5.0
"""How long cancelled requests may take to notice it."""


class PrefillServer:
    """A prefill worker of the configuration `tables`, of which `engine` and `prefill_worker` are its sections.

    It writes into the store at `store` and is known there as `name` on `node`.
    """

    role = "prefill"

    def __init__(self, tables: Table, *, store: str, name: str, node: str = "local") -> None:
        settings = build(PrefillSettings, tables.get("prefill_worker", {}), "prefill_worker")
        self.name, self.node = name, node
        self.engine = HfEngine(build(EngineSettings, tables.get("engine", {}), "engine"))
        self._store = RemoteStore(store, codec=settings.codec)
        self.worker = PrefillWorker(self.engine, self._store, store, settings)
        service = PrefillService(self.worker, name)
        self._serving = Serving(
            settings.service(), "prefill_worker", SERVICE,
            lambda server: add_PrefillWorkerServicer_to_server(service, server),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        self._heartbeat: Heartbeat | None = None

    @property
    def address(self) -> str:
        """Where clients find it; Unavailable unless it is open."""
        return self._serving.address

    @property
    def queue(self) -> int:
        """Requests waiting or running."""
        return len(self.worker.running)

    def open(self) -> None:
        """Loads the model, serves, and makes itself known; the store may come later. ConfigError, UnsupportedModel."""
        self.engine.open()
        self._store.open()
        self._serving.open()
        spec = fingerprint(self.engine.spec)
        member = Member(self.role, self.name, self.address, self.node, os.urandom(16), fingerprint=spec)
        self._heartbeat = Heartbeat(self._store, member, lambda: self.queue)
        self._heartbeat.open()

    def close(self, grace: float = 1.0) -> None:
        """Leaves the cluster map, lets requests end within `grace` seconds, then gives the rest up."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.close()
        self._serving.close(grace)
        self.worker.running.drain(DRAIN_SECONDS)
        self._store.close()
        self.engine.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
