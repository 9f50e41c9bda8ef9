"""The rows of `wire.py` about calls that move no blocks."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from typing import TYPE_CHECKING

from report import Report
from store_memory import MIB, Clock, Prompt, spec_of
from wire_sides import served

from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from cachestore.store.base import BlockPlan

if TYPE_CHECKING:
    from wire import Options

KEYS = 1000


def measure_lookups(report: Report, options: Options) -> None:
    """Rows `wire.lookup_ms`, a thousand present keys in one call, and `wire.mirror_ms`, the same by the mirror."""
    prompt, clock = Prompt.random(spec_of(512, block_tokens=4), KEYS), Clock()
    with ExitStack() as stack:
        node = stack.enter_context(served(128 * MIB))
        store = stack.enter_context(RemoteStore(node.address))
        connection = Connection(node.address)
        connection.open()
        stack.callback(connection.close)
        mirror = stack.enter_context(Mirror(connection))
        prompt.put(store)
        while len(mirror) < KEYS:
            time.sleep(0.01)
        for _ in range(20 if options.quick else 500):
            clock.time("lookup", lambda: store.lookup(prompt.keys))
            clock.time("mirror", lambda: mirror.lookup(prompt.keys))
        assert store.lookup(prompt.keys).ready == mirror.lookup(prompt.keys).ready == KEYS
    report.add("wire.lookup_ms", 1e3 * clock.median("lookup"), "ms", "lower", bar=1.5, reach=0.7)
    report.add("wire.mirror_ms", 1e3 * clock.median("mirror"), "ms", "lower", bar=0.4, reach=0.15)


def measure_first_plane(report: Report, options: Options) -> None:
    """Row `wire.first_plane_ms`: from a plane's write until a reader in another process, who follows it, has it.

    Planes of 32 KiB, one every 1 to 15 ms; client and store choose among all their transports.
    """
    seconds: list[float] = []
    with ExitStack() as stack:
        node = stack.enter_context(served(128 * MIB))
        store = stack.enter_context(RemoteStore(node.address))
        writer = stack.enter_context(_writer(node.address))
        end = time.monotonic() + options.seconds
        while not seconds or time.monotonic() < end:
            keys, seen = writer.recv(), dict[int, float]()
            with store.read(keys, wait=60.0, provisional=True, timeout=60.0) as reading:
                writer.send(None)
                for came in reading.planes():
                    seen[came.plane] = time.monotonic()
            written = writer.recv()
            assert len(seen) == len(written)
            seconds += [seen[plane] - begun for plane, begun in enumerate(written)]
    report.add("wire.first_plane_ms", 1e3 * statistics.median(seconds), "ms", "lower", bar=3, reach=1)


@contextmanager
def _writer(address: str) -> Iterator[Pipe]:
    """A process that puts one block after the other: sends its keys, waits for a word, and sends when each plane was
    about to be written, in monotonic seconds."""
    context = get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_write, args=(address, there), daemon=True)
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        child.join(10)
        child.kill()


def _write(address: str, asked: Pipe) -> None:
    drawn, spec = random.Random(0), spec_of(32 << 10)
    with RemoteStore(address) as store, suppress(EOFError, OSError):
        for number in count():
            prompt, written = Prompt.random(spec, 1, number), list[float]()
            planes, at = spec.planes(), 0
            with store.put(prompt.keys.fingerprint, [BlockPlan(prompt.keys.keys[0], 64, planes)], timeout=60.0) as put:
                asked.send(prompt.keys)
                asked.recv()
                for plane, id in enumerate(planes):
                    time.sleep(drawn.uniform(0.001, 0.015))
                    written.append(time.monotonic())
                    put.write(0, plane, prompt.source[0][at : at + id.raw_bytes])
                    at += id.raw_bytes
                time.sleep(0.1)
                put.commit()
            store.delete(prompt.keys)
            asked.send(written)
