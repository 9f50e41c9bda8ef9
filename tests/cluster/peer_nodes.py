"""Nodes with one Redis, as `cachestore serve` and Ray start them, and others that only say they are there."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from cachestore.cluster.host import StoreHost
from cachestore.directory.redis import Redis as Directory
from cachestore.directory.redis_entries import entry_name
from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.store.base import Store
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.redis import Redis as Server
from tests.cluster.conftest import eventually
from tests.redis_servers.server import RedisServer

KEYS, BLOCKS = random_prompt(small_spec(), 6)
PATIENT = {"connect_timeout": "2s", "timeout": "2s"}
"""A machine that is busy must not look like a Redis that hangs."""


def tables(server: RedisServer, **more: Any) -> dict[str, Any]:
    """A node's configuration."""
    directory = {"name": "redis", "heartbeat": "100ms", "ttl": "2s", "server": {"url": server.url}, **PATIENT}
    return {
        "tiers": [{"name": "cpu", "capacity": "16MiB"}],
        "directory": directory,
        "peers": {"timeout": "1s"},
        "service": {"port": 0, "drain": 0.1},
        **more,
    }


@contextlib.contextmanager
def hosted(tables: dict[str, Any], name: str, port: int = 0) -> Iterator[StoreHost]:
    host = StoreHost(tables, name, port)
    try:
        yield host
    finally:
        host.close()


@dataclass(eq=False)
class RedisNodes:
    """Starts nodes `a`, `b`, … with one Redis; clients of each."""

    redis: RedisServer
    stack: contextlib.ExitStack

    def __call__(self, name: str, **more: Any) -> RemoteStore:
        host = self.stack.enter_context(hosted(tables(self.redis, **more), name))
        return self.stack.enter_context(RemoteStore(host.address(), transports=("stream",)))


@contextlib.contextmanager
def fake(server: RedisServer, address: str, *keys: bytes) -> Iterator[Any]:
    """A node in the directory that says it holds these blocks, at an address of the test's."""
    part = Directory(heartbeat=0.1, ttl=30.0, connect_timeout=2.0, timeout=2.0).start(Server(server.url))
    held = {(namespace_id(DEFAULT_NAMESPACE), key) for key in keys}
    part.open()
    try:
        part.join("fake", address, held)
        until = time.monotonic() + 10.0
        while total(part.figures(), "directory_announced") < len(keys):
            assert time.monotonic() < until
            part.step()
        yield part
    finally:
        part.leave()
        part.close()


def credit(server: RedisServer, node: str, *keys: bytes) -> None:
    """Has the directory say that a node holds these blocks, which it does not."""
    with closing(Directory(connect_timeout=2.0, timeout=2.0).start(Server(server.url))) as part:
        part.open()
        (life,) = [life for life in part.lives() if life.node == node]
    with server.client() as client:
        for key in keys:
            client.append(entry_name(namespace_id(DEFAULT_NAMESPACE), key), b"+" + life.incarnation)


def read(store: Store, keys: Chain = KEYS, timeout: float = 10.0) -> list[Any]:
    with store.read(keys, timeout=timeout) as reading:
        return list(reading)


def ready(store: Store, blocks: int = len(KEYS)) -> None:
    eventually(lambda: store.lookup(KEYS).ready == blocks)
