"""One node of the system under test: its store, and the proxies on every way to it and from it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from cachestore.errors import CacheStoreError
from cachestore.hashing import namespace_id
from cachestore.metrics import Figure
from cachestore.service.client import RemoteStore
from tests.faults.processes import NotStarted, Process, StoreProcess
from tests.faults.proxy import Proxy
from tests.soak.plan import NAMESPACES

Client = Callable[[str, str], RemoteStore]


class NodeProcess(StoreProcess):
    """A store that is a node of a directory."""

    script = "faults/node_process.py"


class Node:
    """`to_store` is the way of clients and of other nodes, `to_redis` that to what nodes share.

    `tenants` are clients that go past the proxy, `probe` is one before it.
    """

    def __init__(self, number: int, folder: Path, redis: Path, tables: Mapping[str, Any], client: Client) -> None:
        self.name = f"node-{number}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.address = ""
        # an address of its own, at which the others find the proxy in place of the store
        self._host = f"127.0.0.{10 + number}"
        self._redis = redis
        self._tables = tables
        self._client = client
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.to_redis = stack.enter_context(Proxy(f"unix:{self._redis}", f"unix:{self.folder}/redis.sock"))
            tables = dict(self._tables)
            memory, redis, disk = tables["tiers"]
            tables["tiers"] = [
                memory,
                {**redis, "url": f"unix://{self.folder}/redis.sock"},
                {**disk, "path": str(self.folder / "blocks")},
            ]
            tables["store"] = {**tables["store"], "node": self.name}
            kind = StoreProcess
            if "directory" in tables:
                tables["service"] = {**tables["service"], "advertise": self._host}
                kind = NodeProcess
            self.store: StoreProcess = kind(tables)
            stack.callback(lambda: end(self.store))
            port = self.store.address.rpartition(":")[2]
            # what it tells is where the proxy is, if it advertises that
            listens = f"127.0.0.1:{port}"
            self.to_store = stack.enter_context(Proxy(listens, f"{self._host}:{port}"))
            self.address = self.to_store.address
            self.tenants = {name: stack.enter_context(self._client(listens, name)) for name in NAMESPACES}
            self.direct = self.tenants[NAMESPACES[0]]
            self.probe = stack.enter_context(self._client(self.address, NAMESPACES[0]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def start(self, within: Callable[[], bool]) -> None:
        """Another store process in the place of one that is gone; one that finds no Redis is tried again."""
        while True:
            try:
                self.store = self.store.again()
                return
            except NotStarted:
                if not within():
                    raise

    def figures(self) -> list[Figure]:
        """What the store counts; empty if it does not answer."""
        try:
            return self.direct.stats(timeout=1.0)
        except CacheStoreError:
            return []

    def file(self, key: bytes) -> Path:
        """Where the disk has a block."""
        return self.folder / "blocks" / namespace_id(NAMESPACES[0]).hex() / key.hex()[:2] / key.hex()


def end(process: Process) -> None:
    """Ends a process, which may stand still."""
    process.go_on()
    process.kill()
