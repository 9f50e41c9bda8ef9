"""Nodes in this process, as their clients and their operator reach them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cachestore.cluster.host import StoreHost
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore
from cachestore.service.operating import Operating
from cachestore.service.operation import Moved
from cachestore.store.base import Durability
from cachestore.testing import random_prompt, small_spec
from cachestore.testing.blocks import plans_of, write_blocks
from tests.cluster.conftest import eventually
from tests.redis_servers.server import RedisServer

KEYS, BLOCKS = random_prompt(small_spec(), 6)
OTHERS, MORE = random_prompt(small_spec(), 5, seed=2)
COLD, UNREAD = random_prompt(small_spec(), 4, seed=3)


def tables(server: RedisServer, folder: Path | None = None, **more: Any) -> dict[str, Any]:
    """A node's configuration, with a disk of its own in `folder`."""
    waits = {"connect_timeout": "2s", "timeout": "2s"}
    tiers: list[dict[str, Any]] = [{"name": "cpu", "capacity": "16MiB"}]
    if folder is not None:
        tiers.append({"name": "disk", "path": str(folder), "capacity": "64MiB"})
    return {
        "tiers": tiers,
        "directory": {"name": "redis", "heartbeat": "100ms", "ttl": "5s", "server": {"url": server.url}, **waits},
        "peers": {"timeout": "5s"},
        "service": {"port": 0, "drain": 0.1},
        **more,
    }


class Node:
    """A store in this process, as its clients and its operator reach it; `ended` says that its process would end."""

    def __init__(self, stack: contextlib.ExitStack, tables: dict[str, Any], name: str, credentials: Any = None) -> None:
        self.ended: list[str] = []
        self.host = StoreHost(tables, name, 0, ended=lambda: self.ended.append(name))
        stack.callback(self.host.close)
        self.address = self.host.address()
        self.store = stack.enter_context(RemoteStore(self.address, transports=("stream",), credentials=credentials))
        self.operating = stack.enter_context(contextlib.closing(Operating(self.address, credentials)))
        self.operating.open()

    def drained(self, seconds: float = 20.0, *, force: bool = False) -> Moved:
        """Drains it to the end."""
        return over(self.operating.drain, self.operating.drain(seconds, force=force))


def over(ask: Callable[[], Moved], told: Moved) -> Moved:
    until = time.monotonic() + 30.0
    while not told.done:
        assert time.monotonic() < until, told
        time.sleep(0.02)
        told = ask()
    return told


def read(store: RemoteStore, keys: Chain) -> list[Any]:
    with store.read(keys, timeout=10.0) as reading:
        return list(reading)


def put_durable(store: RemoteStore, ttl: float | None = None) -> None:
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE, ttl=ttl) as put:
        write_blocks(put, BLOCKS)
        put.commit()


def met(*nodes: Node) -> None:
    """All of them know of each other."""
    eventually(lambda: all(len(node.operating.node().nodes) == len(nodes) for node in nodes))


@contextlib.contextmanager
def starting(server: RedisServer, folder: Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes with one directory, each with a disk where `disk` says so."""
    with contextlib.ExitStack() as stack:

        def start(name: str, disk: bool = False, credentials: Any = None, **more: Any) -> Node:
            own = folder / name
            if disk:
                own.mkdir(mode=0o700)
            return Node(stack, tables(server, own if disk else None, **more), name, credentials)

        yield start
