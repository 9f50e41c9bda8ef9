"""The rows of `wire.py` about the same node: shared memory beside a copy that is hashed, Mooncake and LMCache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from cold import buffers
from report import Report
from store_memory import PROMPT, Prompt
from wire_peers import lmcache, mooncake
from wire_sides import BLOCK_BYTES, PROMPT_BYTES, Sides, fill, prompt_count, prompts, remote, renamed, served, timed

from cachestore.block import BlockSpec
from cachestore.hashing import Chain
from cachestore.service.client import RemoteStore

if TYPE_CHECKING:
    from wire import Options

READERS = 4
CHUNKS, CHUNK_PLANE = 8, 64 << 10
"""Blocks of the size that LMCache's chunks have, 4 MiB, and of so many of them a prompt as large as the others."""


@contextmanager
def _shared(count: int) -> Iterator[RemoteStore]:
    """A store with room for so many prompts, in another process of this node."""
    with served(count * PROMPT_BYTES * 9 // 8) as node, remote(node.address, "shared") as store:
        yield store


def measure_reads(report: Report, options: Options) -> None:
    """Rows `wire.local_read`, `wire.mooncake_local`: 16 blocks of 2 MiB a call."""
    count = prompt_count(options)
    own, sides = prompts(count), Sides()
    with ExitStack() as stack:
        sides.ways["copy"] = timed(lambda number: own[number].copy_and_hash())
        with sides.noting("shared"):
            store = stack.enter_context(_shared(count))
            fill(store, own)
            assert all(prompt.comes_back(store) for prompt in own)
            sides.ways["shared"] = timed(lambda number: own[number].read(store))
        with sides.noting("mooncake local"):
            sides.ways["mooncake local"] = stack.enter_context(mooncake(options, "local", count))["read"]
        sides.take_turns(count, options)
    sides.row(report, "wire.local_read", "shared", "copy", bar=0.75, reach=0.95)
    sides.row(report, "wire.mooncake_local", "shared", "mooncake local", bar=0.6, reach=0.8)


def measure_lmcache(report: Report, options: Options) -> None:
    """Row `wire.lmcache_server`: 8 blocks of 4 MiB a call."""
    count = prompt_count(options)
    own, sides = prompts(count, CHUNK_PLANE, CHUNKS), Sides()
    with ExitStack() as stack:
        with sides.noting("shared"):
            store = stack.enter_context(_shared(count))
            fill(store, own)
            sides.ways["shared"] = timed(lambda number: own[number].read(store))
        with sides.noting("lmcache"):
            sides.ways["lmcache"] = stack.enter_context(lmcache(options, count, CHUNKS))["read"]
        sides.take_turns(count, options)
    sides.row(report, "wire.lmcache_server", "shared", "lmcache", bar=1.0, reach=1.5)


def measure_puts(report: Report, options: Options) -> None:
    """Row `wire.local_put`: 16 blocks of 2 MiB a call."""
    count = prompt_count(options)
    own, sides = prompts(count), Sides()
    with ExitStack() as stack:
        sides.ways["copy"] = timed(lambda number: own[number].copy_and_hash())
        with sides.noting("shared"):
            store = stack.enter_context(_shared(count))
            sides.ways["shared"] = timed(lambda number: own[number].put(store))
            sides.take_turns(count, options, store.clear)
    sides.row(report, "wire.local_put", "shared", "copy", bar=0.65, reach=0.90)


def measure_readers(report: Report, options: Options) -> None:
    """Row `wire.readers4`: prompts of their own each, in four processes at once and in one after the other."""
    count, id = max(1, prompt_count(options) // READERS), "wire.readers4"
    own, sides = prompts(1), Sides()
    with ExitStack() as stack:
        node = stack.enter_context(served(READERS * count * PROMPT_BYTES * 9 // 8))
        with sides.noting("shared"):
            store = stack.enter_context(remote(node.address, "shared"))
            every = [renamed(own[0], 1 + number) for number in range(READERS * count)]
            fill(store, every)
            readers = [
                stack.enter_context(_reader(node.address, every[start : start + count]))
                for start in range(0, len(every), count)
            ]
            sides.ways["one"] = timed(lambda turn: _read_by(*([reader] for reader in readers)))
            sides.ways["four"] = timed(lambda turn: _read_by(readers))
            sides.take_turns(1, options)
            report.add(id, sides.clock.ratio("four", "one"), "ratio", bar=1.0, reach=1.3)
    if "shared" in sides.missing:
        report.skip(id, sides.missing["shared"])


def _read_by(*groups: list[Connection]) -> None:
    """Lets groups of readers read, one group after the other, those of one group at once."""
    for readers in groups:
        for reader in readers:
            reader.send(None)
        for reader in readers:
            reader.recv()


@contextmanager
def _reader(address: str, own: list[Prompt]) -> Iterator[Connection]:
    """A process with memory of its own that reads these prompts whenever it is asked to."""
    context = get_context("spawn")
    here, there = context.Pipe()
    keys = [prompt.keys for prompt in own]
    child = context.Process(target=_read, args=(address, keys, own[0].spec, there), daemon=True)
    child.start()
    there.close()
    try:
        here.recv()
        yield here
    finally:
        here.close()
        child.join(10)
        child.kill()


def _read(address: str, keys: list[Chain], spec: BlockSpec, asked: Connection) -> None:
    own = [Prompt(chain, spec, [], buffers(PROMPT, BLOCK_BYTES)) for chain in keys]
    with remote(address, "shared") as store:
        while True:
            for prompt in own:
                prompt.read(store)
            asked.send(None)
            try:
                asked.recv()
            except EOFError:
                return
