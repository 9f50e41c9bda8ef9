"""The rows of `store.py` about the disk tier: how fast it reads, and what a killed store finds again."""

from __future__ import annotations

import os
import random
import tempfile
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from cold import BATCH, NAMESPACE, SEALED_BYTES, Turns, buffers, fill, key_of, read, working_set
from report import Report
from store_memory import Clock, Prompt, spec_of

from cachestore.eviction.lru import Lru
from cachestore.store.base import BlockPlan, Durability, PutStatus
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.tiers.disk import Disk
from cachestore.tiers.disk_files import place_of

if TYPE_CHECKING:
    from store import Options

BLOCKS, LEAST = 256, 200
"""Blocks that the store to be killed is to put, and how many of them it has acknowledged at least when it is killed."""


def measure_read(report: Report, options: Options) -> None:
    """Row `disk.read`: 2 MiB blocks that the kernel has in memory, beside pread of the same files and one xxh3 pass."""
    count, clock = working_set(options.quick), Clock()
    memory = buffers(BATCH, SEALED_BYTES)
    with tempfile.TemporaryDirectory(prefix="cachestore-bench-") as folder:
        tier = Disk(folder, capacity=2 * count * SEALED_BYTES).start(Lru())
        tier.open(lambda departures: None)
        try:
            fill(tier, count)
            files = [os.path.join(folder, place_of(NAMESPACE, key_of(number))) for number in range(count)]

            def plain(numbers: range) -> None:
                for number, buffer in zip(numbers, memory, strict=True):
                    descriptor = os.open(files[number], os.O_RDONLY)
                    assert os.preadv(descriptor, (buffer.data,), 0) == SEALED_BYTES
                    os.close(descriptor)
                    xxhash.xxh3_64_intdigest(buffer.data)

            Turns(count, clock).run(2 if options.quick else 9, partial(read, tier), plain)
        finally:
            tier.close()
    report.add("disk.read", clock.ratio("ours", "yardstick"), "ratio", bar=0.80, reach=0.95)


def measure_restart(report: Report, options: Options) -> None:
    """Row `disk.restart`: what is there of the blocks acknowledged as durable by a store that was killed meanwhile."""
    with tempfile.TemporaryDirectory(prefix="cachestore-bench-") as folder:
        context = get_context("spawn")
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_put_all, args=(folder, there), daemon=True)
        child.start()
        there.close()
        acknowledged = [here.recv() for _ in range(random.randint(LEAST, BLOCKS - 10))]
        child.kill()
        child.join()
        while True:  # what it said before it was killed counts, too
            try:
                acknowledged.append(here.recv())
            except EOFError:
                break
        found = _found(folder, len(acknowledged))
    report.add("disk.restart", found / len(acknowledged), f"of {len(acknowledged)} blocks", bar=1.0, reach=1.0)


def _prompt() -> Prompt:
    return Prompt.random(spec_of(2 << 10), BLOCKS)


def _store(folder: str) -> TieredStore:
    tiers = [{"name": "cpu", "capacity": "256MiB"}, {"name": "disk", "path": folder, "capacity": "1GiB"}]
    return compose({"tiers": tiers, "codecs": {"name": "raw"}})


def _put_all(folder: str, acknowledged: Connection) -> None:
    prompt = _prompt()
    planes = prompt.spec.planes()
    with _store(folder) as tiered:
        store = tiered.namespace("bench")
        for number, key in enumerate(prompt.keys.keys):
            plans = [BlockPlan(key, prompt.spec.block_tokens, planes)]
            after = prompt.keys.keys[number - 1] if number else None
            with store.put(prompt.keys.fingerprint, plans, after=after, durability=Durability.DURABLE) as put:
                put.write(0, 0, prompt.source[number])
                put.commit()
                assert put.answers[0].status is PutStatus.STORED
            acknowledged.send(number)


def _found(folder: str, count: int) -> int:
    """How many of the first `count` blocks a new store reads as they were put."""
    prompt = _prompt()
    with _store(folder) as tiered, tiered.namespace("bench").read(prompt.keys, into=prompt.target) as reading:
        handed_out = sum(1 for _ in reading)
    pairs = zip(prompt.source[: min(count, handed_out)], prompt.target, strict=False)
    return sum(np.array_equal(source, target) for source, target in pairs)
