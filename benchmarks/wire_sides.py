"""What the rows of `wire.py` share: the two processes, the ways that bytes can go between them, and fair turns."""

from __future__ import annotations

import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from cold import buffers
from first_light import process
from report import Report
from store_memory import MIB, PROMPT, Clock, Prompt, last_level_cache, raw_store, spec_of

from cachestore.errors import CacheStoreError
from cachestore.hashing import chain
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Store

if TYPE_CHECKING:
    from wire import Options

BLOCK_BYTES = 2 * MIB
PROMPT_BYTES = PROMPT * BLOCK_BYTES
GIGABYTE = 1e9

Way = Callable[[int], float]
"""Moves the prompt of a number; the seconds it took."""


class Missing(Exception):
    """What a row needs is not here; the message says what."""


def prompt_count(options: Options, blocks: int = PROMPT) -> int:
    """So many prompts that a block is out of every cache before its next turn: each is in memory at both ends."""
    return 2 if options.quick else last_level_cache() // (2 * blocks * BLOCK_BYTES) + 1


def prompts(count: int, plane_bytes: int = BLOCK_BYTES // 64, blocks: int = PROMPT) -> list[Prompt]:
    """Prompts of `blocks` blocks of 64 planes of random bytes each."""
    return [Prompt.random(spec_of(plane_bytes), blocks, number) for number in range(count)]


def renamed(prompt: Prompt, place: int) -> Prompt:
    """The same bytes under keys of its own, so that several ways can put them into one store."""
    tokens = len(prompt.keys) * prompt.spec.block_tokens
    return replace(prompt, keys=chain(prompt.spec, range(place << 20, (place << 20) + tokens)))


def timed(work: Callable[[int], object]) -> Way:
    """A way that is timed from here."""

    def way(number: int) -> float:
        begun = time.perf_counter()
        work(number)
        return time.perf_counter() - begun

    return way


@dataclass(frozen=True)
class Served:
    """A store in a process of its own."""

    address: str
    pid: int


def _serve(capacity: int, settings: ServiceSettings, ready: Connection) -> None:
    with raw_store(capacity) as store, CacheStoreServer(store, settings) as server:
        ready.send(f"{os.getpid()} {server.address}")
        _until_closed(ready)


def _until_closed(ready: Connection) -> None:
    try:
        ready.recv()
    except EOFError:
        return


@contextmanager
def served(capacity: int, settings: ServiceSettings | None = None) -> Iterator[Served]:
    """A store of `capacity` bytes of memory behind the service."""
    with process(_serve, capacity, settings or ServiceSettings(port=0)) as first:
        pid, _, address = first.partition(" ")
        yield Served(address, int(pid))


@contextmanager
def remote(address: str, transport: str, **more: Any) -> Iterator[RemoteStore]:
    """A client that moves bytes by `transport` alone; Missing if that way is not open."""
    try:
        store = RemoteStore(address, transports=(transport,), **more)
    except (CacheStoreError, TypeError) as error:
        raise Missing(f"no transport {transport!r}: {error}") from error
    with store:
        probe = Prompt.random(spec_of(512, block_tokens=4), 1, 1 << 30)
        try:
            probe.put(store)
            assert probe.comes_back(store)
            store.delete(probe.keys)
        except CacheStoreError as error:
            raise Missing(f"no transport {transport!r}: {error}") from error
        yield store


def _raw(count: int, blocks: int, ready: Connection) -> None:
    """The other end of `RawTcp`: memory for `count` prompts of `blocks` blocks, sent and filled by block."""
    memory = [buffers(blocks, BLOCK_BYTES) for _ in range(count)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready.send(f"{os.getpid()} {listening.getsockname()[1]}")
        connection, _ = listening.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while asked := connection.recv(5, socket.MSG_WAITALL):
            for block in memory[int.from_bytes(asked[1:], "little")]:
                if asked[:1] == b"r":
                    connection.sendall(block.data)
                else:
                    connection.recv_into(block.data, BLOCK_BYTES, socket.MSG_WAITALL)
            if asked[:1] == b"w":
                connection.sendall(b"k")


class RawTcp:
    """The yardstick of what travels: `sendall` and `recv_into` of whole blocks over one connection, nothing checked."""

    def __init__(self, connection: socket.socket, pid: int, own: list[Prompt]) -> None:
        self.pid = pid
        self._connection = connection
        self._prompts = own
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, number: int) -> None:
        """Asks for a prompt's bytes, and takes them into its target."""
        self._connection.sendall(b"r" + number.to_bytes(4, "little"))
        for block in self._prompts[number].target:
            assert self._connection.recv_into(block.data, BLOCK_BYTES, socket.MSG_WAITALL) == BLOCK_BYTES

    def write(self, number: int) -> None:
        """Sends a prompt's bytes, and waits until they are there."""
        self._connection.sendall(b"w" + number.to_bytes(4, "little"))
        for block in self._prompts[number].source:
            self._connection.sendall(block.data)
        assert self._connection.recv(1) == b"k"


@contextmanager
def raw_tcp(own: list[Prompt]) -> Iterator[RawTcp]:
    """A bare TCP peer in a process of its own that takes and gives these prompts."""
    with process(_raw, len(own), len(own[0].keys)) as first:
        pid, _, port = first.partition(" ")
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            yield RawTcp(connection, int(pid), own)


@dataclass
class Sides:
    """The ways that take turns, by name, and why others are not among them. Prompts are of `blocks` blocks."""

    blocks: int = PROMPT
    ways: dict[str, Way] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    @contextmanager
    def noting(self, name: str) -> Iterator[None]:
        """Notes why a way is not here, instead of raising Missing."""
        try:
            yield
        except Missing as error:
            self.missing[name] = str(error)

    def take_turns(self, count: int, options: Options, between: Callable[[], object] = lambda: None) -> None:
        """Every way takes each of `count` prompts once a round, as far apart as they can be, in an order that is drawn.

        So none finds in a cache what another has just moved. The first round is to warm up; `between` runs after each.
        """
        drawn, turn, end = random.Random(0), 0, 0.0
        while turn < 2 or time.perf_counter() < end:
            for start in range(count):
                for place, name in drawn.sample(list(enumerate(self.ways)), len(self.ways)):
                    seconds = self.ways[name]((start + place * count // len(self.ways)) % count)
                    self.clock.seconds.setdefault(name, []).append(seconds)
            between()
            if not turn:
                self.clock.forget()
                end = time.perf_counter() + options.seconds
            turn += 1

    def quickest(self, *names: str) -> str:
        """The one of these ways that took least; the first if none is here."""
        here = [name for name in names if name in self.ways]
        return min(here, key=self.clock.median, default=names[0])

    def row(self, report: Report, id: str, way: str, beside: str, *, bar: float, reach: float) -> None:
        """How fast `way` is beside the other, and the speed of both."""
        for name in (way, beside):
            if name not in self.ways:
                report.skip(id, self.missing[name])
                return
        report.add(id, self.clock.ratio(way, beside), "ratio", bar=bar, reach=reach)
        for name in (way, beside):
            nbytes = self.blocks * BLOCK_BYTES
            speed = statistics.median(nbytes / seconds for seconds in self.clock.seconds[name]) / GIGABYTE
            report.add(f"{id}.{name.replace(' ', '_')}", speed, "GB/s")


def fill(store: Store, own: list[Prompt]) -> None:
    """Puts the prompts that are not there yet."""
    for prompt in own:
        if store.lookup(prompt.keys).ready < len(prompt.keys):
            prompt.put(store)
