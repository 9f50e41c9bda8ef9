import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu

SERVE = Path(__file__).with_name("serve_process.py")


class Process:
    """A server in another process."""

    def __init__(self, **settings: object) -> None:
        command = [sys.executable, str(SERVE), json.dumps({"port": 0, **settings})]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.popen.stdout is not None
        self.address = self.popen.stdout.readline().strip()
        assert self.address

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """Starts servers in other processes."""
    started: list[Process] = []

    def start(**settings: object) -> Process:
        started.append(Process(**settings))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with TieredStore(Cpu(64 << 20).start(), (), create("raw"), Lru()) as store:
        yield store


@pytest.fixture
def serve(tiered: TieredStore) -> Iterator[Callable[..., CacheStoreServer]]:
    """Serves `tiered` in this process under the settings given; afterwards nothing may be held."""
    servers: list[CacheStoreServer] = []

    def start(**settings: Any) -> CacheStoreServer:
        server = CacheStoreServer(tiered, ServiceSettings(**{"port": 0, **settings}), "test")
        server.open()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
        assert server.calls.used == 0 and server.bytes_in_flight.used == 0
    tiered.check()


@pytest.fixture
def server(serve: Callable[..., CacheStoreServer]) -> CacheStoreServer:
    return serve()


@pytest.fixture
def remote(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address) as store:
        yield store


@pytest.fixture
def channel(server: CacheStoreServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel
