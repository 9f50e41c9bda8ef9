"""What serving a worker takes, whichever it is: engine, store, port and heartbeat."""

import os
from typing import ClassVar, Protocol, Self

from cachestore.engine.hf import HfEngine
from cachestore.hashing import fingerprint
from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member
from prefill_worker.running import Running
from prefill_worker.serving import Serving

DRAIN_SECONDS = 5.0
"""How long cancelled requests may take to notice it."""


class Worker(Protocol):
    """What does the work."""

    running: Running

    def close(self) -> None:
        """Lets go of what the worker itself holds. Closing twice is allowed."""


class WorkerServer:
    """Opens and closes the parts of a worker in order. It is known in the store's cluster map as `name` on `node`."""

    role: ClassVar[str]

    def __init__(
        self, engine: HfEngine, store: RemoteStore, worker: Worker, serving: Serving, name: str, node: str
    ) -> None:
        self.name, self.node = name, node
        self.engine = engine
        self._store = store
        self._worker = worker
        self._serving = serving
        self._heartbeat: Heartbeat | None = None

    @property
    def address(self) -> str:
        """Where clients find it; Unavailable unless it is open."""
        return self._serving.address

    @property
    def queue(self) -> int:
        """Requests waiting or running."""
        return len(self._worker.running)

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
        self._worker.running.drain(DRAIN_SECONDS)
        self._worker.close()
        self._store.close()
        self.engine.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
