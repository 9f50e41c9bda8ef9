"""The rows of `store.py` about memory: reading, putting, matching, naming, and the room that a store needs for it."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from report import Report

from cachestore.block import BlockSpec, Buffer, Slot
from cachestore.hashing import Chain, chain
from cachestore.store.base import BlockPlan, PutStatus, Store
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore

if TYPE_CHECKING:
    from store import Options

MIB = 1 << 20


def spec_of(plane_bytes: int, block_tokens: int = 64) -> BlockSpec:
    """A model whose blocks have 64 planes of so many bytes each: 32 slots, K and V, one head group."""
    dim = plane_bytes // block_tokens // 2
    return BlockSpec("bench/model", "0" * 40, "bfloat16", (Slot(1, dim, dim),) * 32, 1, block_tokens)


def raw_store(capacity: int) -> TieredStore:
    """A store of memory alone that stores planes as they are."""
    return compose({"tiers": [{"name": "cpu", "capacity": capacity}], "codecs": {"name": "raw"}})


def last_level_cache() -> int:
    """Bytes of the largest cache of the first processor; 32 MiB where the system does not say."""
    sizes = [
        int(path.read_text().strip().removesuffix("K")) << 10
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=32 * MIB)


@dataclass
class Clock:
    """The seconds of every way, turn by turn."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, way: str, work: Callable[[], object]) -> None:
        """Runs `work` once."""
        begun = time.perf_counter()
        work()
        self.seconds.setdefault(way, []).append(time.perf_counter() - begun)

    def ratio(self, way: str, yardstick: str) -> float:
        """How fast `way` is beside the yardstick whose turn was next to it: the median over all turns."""
        pairs = zip(self.seconds[yardstick], self.seconds[way], strict=True)
        return statistics.median(most / own for most, own in pairs)

    def median(self, way: str) -> float:
        """Seconds a turn."""
        return statistics.median(self.seconds[way])

    def forget(self) -> None:
        """What was measured so far was to warm up."""
        self.seconds.clear()


@dataclass(frozen=True)
class Prompt:
    """One prompt's blocks as flat bytes, and as much memory to read them into."""

    keys: Chain
    spec: BlockSpec
    source: list[Buffer]
    target: list[Buffer]

    @classmethod
    def random(cls, spec: BlockSpec, blocks: int, number: int = 0) -> Prompt:
        """`blocks` blocks of random bytes, under keys that depend on `number`."""
        nbytes = sum(plane.raw_bytes for plane in spec.planes())
        whole = np.random.default_rng(number).integers(0, 256, (blocks, nbytes), dtype=np.uint8)
        tokens = range(number, number + blocks * spec.block_tokens)
        return cls(chain(spec, tokens), spec, list(whole), list(np.zeros_like(whole)))

    def copy_and_hash(self) -> None:
        """The yardstick: every block copied, and what has arrived hashed, as a whole."""
        for source, target in zip(self.source, self.target, strict=True):
            np.copyto(target, source)
            xxhash.xxh3_64_intdigest(target.data)

    def put(self, store: Store) -> None:
        """Stores every block."""
        planes = self.spec.planes()
        plans = [BlockPlan(key, self.spec.block_tokens, planes) for key in self.keys.keys]
        with store.put(self.keys.fingerprint, plans) as put:
            for number, block in enumerate(self.source):
                put.write(number, 0, block)
            put.commit()
            assert all(answer.status is PutStatus.STORED for answer in put.answers)

    def read(self, store: Store) -> None:
        """Reads every block into the caller's memory."""
        with store.read(self.keys, into=self.target) as reading:
            assert sum(1 for _ in reading) == len(self.keys)

    def comes_back(self, store: Store) -> bool:
        """Whether a read brings what was put."""
        for target in self.target:
            target[:] = 0
        self.read(store)
        return all(map(np.array_equal, self.source, self.target))


PROMPT = 16
"""Blocks of one prompt: one call each way, 32 MiB."""


def measure_read_and_put(report: Report, options: Options) -> None:
    """Rows `store.read` and `store.put`: 2 MiB blocks of 64 planes, buffers beyond the last-level cache."""
    nbytes, rounds = (64 * MIB, 2) if options.quick else (last_level_cache() * 5 // 4, 9)
    count = nbytes // (PROMPT * 2 * MIB) + 1
    prompts = [Prompt.random(spec_of(32 << 10), PROMPT, number) for number in range(count)]
    clock = Clock()
    with raw_store(count * PROMPT * 2 * MIB * 5 // 4) as tiered:
        store = tiered.namespace("bench")
        # beside each prompt one that was not touched for long, so that no cache has either
        turns = list(zip(prompts, prompts[count // 2 :] + prompts[: count // 2], strict=True))
        for turn in range(rounds + 1):
            for prompt, other in turns:
                clock.time("put", partial(prompt.put, store))
                clock.time("beside put", other.copy_and_hash)
            for prompt, other in turns:
                clock.time("read", partial(prompt.read, store))
                clock.time("beside read", other.copy_and_hash)
            if not turn:
                assert all(prompt.comes_back(store) for prompt in prompts)
                clock.forget()
            assert store.clear() == count * PROMPT
    report.add("store.read", clock.ratio("read", "beside read"), "ratio", bar=0.80, reach=0.95)
    report.add("store.put", clock.ratio("put", "beside put"), "ratio", bar=0.70, reach=0.90)


def measure_match(report: Report, options: Options) -> None:
    """Row `store.match_us`: a lookup of a thousand present blocks whose keys are known."""
    spec = spec_of(512, block_tokens=4)
    prompt, clock = Prompt.random(spec, 1000), Clock()
    with raw_store(128 * MIB) as tiered:
        store = tiered.namespace("bench")
        prompt.put(store)
        store.lookup(prompt.keys)
        for _ in range(20 if options.quick else 200):
            clock.time("match", lambda: store.lookup(prompt.keys))
        assert store.lookup(prompt.keys).ready == 1000
    report.add("store.match_us", clock.median("match") / 1000 * 1e6, "us/block", "lower", bar=1.0, reach=0.4)


def measure_keys(report: Report, options: Options) -> None:
    """Row `store.keys`: the keys of a prompt of 131,072 tokens, from the bytes of its int32 ids."""
    spec, clock = spec_of(32 << 10), Clock()
    tokens = np.random.default_rng(1).integers(0, 150_000, 1 << 17).astype("<i4").tobytes()
    for _ in range(10 if options.quick else 100):
        clock.time("keys", lambda: chain(spec, tokens))
    rate = (1 << 17) / clock.median("keys") / 1e6
    report.add("store.keys", rate, "million tokens/s", bar=50, reach=80)


def measure_resident(report: Report, options: Options) -> None:
    """Row `store.rss`: resident memory beyond that of an empty store, by the payload held in 512 KiB blocks."""
    payload = (1 << 28) if options.quick else 4 << 30
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 2 * payload:
        report.skip("store.rss", f"less than {2 * payload >> 20} MiB of memory are free")
        return
    context = get_context("spawn")
    here, there = context.Pipe()
    # in a process of its own, since what others have freed would count as free
    child = context.Process(target=_fill, args=(payload, there))
    child.start()
    there.close()
    taken = here.recv()
    child.join()
    report.add("store.rss", taken / payload, "ratio", "lower", bar=1.05, reach=1.02)


def _fill(payload: int, answer: Connection) -> None:
    spec = spec_of(8 << 10)
    block = np.random.default_rng(1).integers(0, 256, 512 << 10, dtype=np.uint8)
    count = payload // block.nbytes
    prompts = [
        Prompt(chain(spec, range(start, start + PROMPT * spec.block_tokens)), spec, [block] * PROMPT, [])
        for start in range(0, count, PROMPT)
    ]
    with raw_store(payload * 9 // 8) as tiered:
        store = tiered.namespace("bench")
        # what is only loaded with the first block does not count; this one is tiny
        Prompt.random(spec_of(512, block_tokens=4), 1).put(store)
        store.clear()
        empty = _resident()
        for prompt in prompts:
            prompt.put(store)
        assert all(store.lookup(prompt.keys).ready == PROMPT for prompt in prompts)
        answer.send(_resident() - empty)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
