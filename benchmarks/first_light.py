"""How fast is the store, beside a plain copy of the same bytes and beside a bare TCP connection?

Blocks are written to and read from the store in this process, and over gRPC from a store in another process. Every
round measures every way once, one after the other, so that what else the machine does falls on all of them alike; the
figures are medians over the rounds.

    python benchmarks/first_light.py [--quick] [--json]
"""

import socket
import statistics
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
from report import Report

from cachestore.block import Block, BlockSpec, Buffer, Slot
from cachestore.hashing import Chain, chain
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_blocks

CAPACITY = 512 << 20
GIGABYTE = 1e9


class Case(NamedTuple):
    """One shape of blocks, as many as one prompt has."""

    name: str
    keys: Chain
    blocks: list[Block]

    @property
    def nbytes(self) -> int:
        """Raw bytes of all blocks."""
        return sum(data.nbytes for block in self.blocks for data in block.data)


def case(name: str, slots: int, heads: int, head_dim: int, block_tokens: int, count: int) -> Case:
    """`count` blocks of bfloat16 values, one head a group."""
    spec = BlockSpec(
        "bench/model", "0" * 40, "bfloat16", (Slot(heads, head_dim, head_dim),) * slots, heads, block_tokens
    )
    tokens = range(count * block_tokens)
    blocks = random_blocks(spec, tokens, seed=1)
    return Case(name, chain(spec, tokens), blocks)


def open_store(codec: str) -> TieredStore:
    """A store of memory alone."""
    return compose({"tiers": [{"name": "cpu", "capacity": CAPACITY}], "codecs": {"name": codec}})


def serve(codec: str, ready: Connection) -> None:
    """A store behind gRPC until the other end of `ready` closes."""
    with open_store(codec) as store, CacheStoreServer(store, ServiceSettings(port=0)) as server:
        ready.send(server.address)
        try:
            ready.recv()
        except EOFError:
            return


def echo(ready: Connection) -> None:
    """A bare TCP peer: takes a length, and answers with that many bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ready.send(listening.getsockname()[1])
        connection, _ = listening.accept()
        data = memoryview(bytes(1 << 20))
        with connection:
            while asked := connection.recv(8):
                left = int.from_bytes(asked, "little")
                while left:
                    left -= connection.send(data[: min(left, len(data))])


@contextmanager
def process(target: Callable[..., None], *arguments: object) -> Iterator[str]:
    """Runs `target` in a process of its own; what it sends first."""
    context = get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=target, args=(*arguments, there), daemon=True)
    child.start()
    there.close()
    try:
        yield str(here.recv())
    finally:
        here.close()
        child.join(10)
        child.kill()


class Ways:
    """The ways that bytes can go, each timed once a round."""

    def __init__(self, case: Case, stores: dict[str, Store], tcp: socket.socket) -> None:
        self.case, self.stores, self.tcp = case, stores, tcp
        self.source = [data for block in case.blocks for data in block.data]
        self.target: Buffer = np.empty(case.nbytes, dtype=np.uint8)
        self.seconds: dict[str, list[float]] = {}

    def round(self) -> None:
        """Every way once."""
        self._timed("copy", self._copy)
        self._timed("tcp", self._receive)
        for name, store in self.stores.items():
            self._timed(f"{name}.write", partial(put_blocks, store, self.case.keys.fingerprint, self.case.blocks))
            self._timed(f"{name}.read", partial(self._read, store))
            assert store.delete(self.case.keys) == len(self.case.blocks)

    def rate(self, way: str) -> float:
        """Gigabytes a second, the median over all rounds but the first."""
        return self.case.nbytes / statistics.median(self.seconds[way][1:]) / GIGABYTE

    def _timed(self, way: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        self.seconds.setdefault(way, []).append(time.perf_counter() - begun)

    def _copy(self) -> None:
        at = 0
        for data in self.source:
            np.copyto(self.target[at : at + data.nbytes], data)
            at += data.nbytes

    def _receive(self) -> None:
        self.tcp.sendall(self.case.nbytes.to_bytes(8, "little"))
        left = memoryview(self.target.data)
        while left:
            left = left[self.tcp.recv_into(left) :]

    def _read(self, store: Store) -> None:
        with store.read(self.case.keys) as reading:
            assert sum(1 for _ in reading) == len(self.case.blocks)


def measure_case(report: Report, case: Case, stores: dict[str, Store], tcp: socket.socket, rounds: int) -> None:
    """Rows for one shape of blocks."""
    ways = Ways(case, stores, tcp)
    for _ in range(rounds + 1):
        ways.round()
    for way in ways.seconds:
        report.add(f"{case.name}.{way}", ways.rate(way), "GB/s")
        if way not in ("copy", "tcp"):
            for plain in ("copy", "tcp"):
                report.add(f"{case.name}.{way}.of_{plain}", ways.rate(way) / ways.rate(plain), "ratio")


def measure_lookup(report: Report, stores: dict[str, Store], rounds: int) -> None:
    """Rows for the time of a lookup of a thousand present keys, by key."""
    tiny = case("tiny", slots=1, heads=1, head_dim=8, block_tokens=4, count=1000)
    seconds: dict[str, list[float]] = {name: [] for name in stores}
    for store in stores.values():
        put_blocks(store, tiny.keys.fingerprint, tiny.blocks)
    for _ in range(rounds * 4):
        for name, store in stores.items():
            begun = time.perf_counter()
            assert store.lookup(tiny.keys).ready == 1000
            seconds[name].append(time.perf_counter() - begun)
    for name, store in stores.items():
        report.add(f"lookup.{name}", statistics.median(seconds[name]) / 1000 * 1e6, "us/key", "lower")
        store.delete(tiny.keys)


def run(rounds: int, large: int, small: int) -> Report:
    """Measures everything; throughput with the raw codec, then values that LZ4 has to shrink."""
    report = Report("first light")
    big = case("large", slots=32, heads=8, head_dim=128, block_tokens=64, count=large)
    little = case("small", slots=4, heads=2, head_dim=64, block_tokens=16, count=small)
    with ExitStack() as stack:
        port = int(stack.enter_context(process(echo)))
        tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        for codec, cases in (("raw", [big, little]), ("lz4", [big._replace(name="large.lz4")])):
            with ExitStack() as open_stores:
                address = open_stores.enter_context(process(serve, codec))
                remote = RemoteStore(address, codec=codec)
                local = open_stores.enter_context(open_store(codec)).namespace("bench")
                stores: dict[str, Store] = {"local": local, "grpc": open_stores.enter_context(remote)}
                for each in cases:
                    measure_case(report, each, stores, tcp, rounds)
                if codec == "raw":
                    measure_lookup(report, stores, rounds)
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of fewer blocks")
    options = parser.parse_args()
    report = run(3, 4, 64) if options.quick else run(11, 8, 256)
    report.print(options.json)


if __name__ == "__main__":
    main()
