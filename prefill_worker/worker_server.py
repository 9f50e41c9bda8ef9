"""What serving a worker takes, whichever it is: model, loop, store, port and heartbeat."""

import os
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import replace
from typing import ClassVar, Protocol, Self

import grpc

from cachestore.config import Table, build
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import fingerprint
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member
from cachestore.service.settings import ServiceSettings
from cachestore.settings import batch
from prefill_worker.base import Worker
from prefill_worker.connecting import Connecting
from prefill_worker.serving import Serving
from prefill_worker.stores import Stores

DRAIN_SECONDS = 5.0
"""How long cancelled requests may take to notice it."""


class Settings(Protocol):
    """What every worker's section has."""

    def service(self, store: ServiceSettings) -> ServiceSettings: ...
    def connecting(self, device: str) -> Connecting:
        """How it reaches stores; `device` is what it computes on."""


class WorkerServer(ABC):
    """Opens and closes the parts of a worker in order. It is known in the store's cluster map as `name` on `node`."""

    role: ClassVar[str]
    service: ClassVar[str]
    """The full name of its methods' service."""

    def __init__(self, tables: Table, settings: Settings, store: str, name: str, node: str) -> None:
        self.name, self.node = name, node
        engine = build(EngineSettings, tables.get("engine", {}), "engine")
        self.model = PagedModel(engine)
        self._batch = batch(tables)
        self._limit = self._batch.max_batch + self._batch.max_waiting
        self._store_address, self._connecting = store, settings.connecting(engine.device)
        self._store = self._connecting.connect(store)
        listen = settings.service(build(ServiceSettings, tables.get("service", {}), "service"))
        self._serving = Serving(
            replace(listen, max_concurrent=self._limit), f"{self.role}_worker", self.service, self._attach
        )
        self._worker: Worker | None = None
        self._parts = ExitStack()
        self._grace = 0.0

    @property
    def address(self) -> str:
        """Where clients find it; Unavailable unless it is open."""
        return self._serving.address

    @property
    def queue(self) -> int:
        """Requests waiting or running."""
        return 0 if self._worker is None else self._worker.queue

    def open(self) -> None:
        """Loads the model, serves, and makes itself known; the store may come later. ConfigError, UnsupportedModel."""
        with ExitStack() as parts:
            parts.callback(self.model.close)
            self.model.open()
            parts.callback(self._connecting.close)
            self._connecting.open()
            parts.callback(self._store.close)
            self._store.open()
            loop = BatchLoop(self.model, self._batch)
            parts.callback(loop.close)
            loop.open()
            stores = Stores(self._store, self._store_address, self._connecting)
            worker = self._worker = self._begin(self.model, loop, stores, self._limit)
            parts.callback(worker.close)
            parts.callback(worker.running.drain, DRAIN_SECONDS)
            self._serving.open()
            parts.callback(lambda: self._serving.close(self._grace))
            spec = fingerprint(self.model.spec)
            member = Member(self.role, self.name, self.address, self.node, os.urandom(16), fingerprint=spec)
            heartbeat = Heartbeat(self._store, member, self._beat)
            parts.callback(heartbeat.close)
            heartbeat.open()
            self._parts = parts.pop_all()

    def close(self, grace: float = 1.0) -> None:
        """Leaves the cluster map, lets requests end within `grace` seconds, then gives the rest up.

        Closing twice is allowed.
        """
        self._grace = grace
        self._parts.close()

    @property
    def healthy(self) -> bool:
        """Whether it is open and its loop goes on."""
        return self._worker is not None and self._worker.healthy

    def _beat(self) -> int:
        self._serving.tell(self.healthy)
        return self.queue

    @abstractmethod
    def _begin(self, model: PagedModel, loop: BatchLoop, stores: Stores, limit: int) -> Worker:
        """The worker, with what it works with."""

    @abstractmethod
    def _attach(self, server: grpc.Server) -> None:
        """Adds the worker's methods to a server."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
