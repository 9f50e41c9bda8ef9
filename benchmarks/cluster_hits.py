"""The rows of `cluster.py` about what three nodes hit, and how often they ask where blocks are."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice, repeat
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from cluster_cases import MEMORY, RATE, TRACE
from cluster_nodes import plain
from cluster_prompts import Prompt, tiled
from cluster_run import ANSWER_SECONDS, COMPUTE_SECONDS, fair, stored
from report import Report

from cachestore.block import Block, BlockSpec, Slot
from cachestore.deadline import Deadline
from cachestore.directory.redis import Redis, RedisDirectory
from cachestore.hashing import Chain, fingerprint, namespace_id
from cachestore.metrics import total
from cachestore.placement.shares import Shares
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.tiers.redis import Redis as Server
from cachestore.tiers.slab import footprint
from gateway.routing.base import Candidate, Question
from gateway.routing.prefix_load import PrefixLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster import Options

NODES = 3
QUICK_PROMPTS = 300
"""The first ones of the trace. Of a part of it the rows say little: with 2,000 prompts and room for 5,000, 3,900 and
3,000 blocks three nodes hit 0.94, 0.98 and 1.12 of what one does, by chance."""

SPEC = BlockSpec("bench/cluster", "0" * 40, "float32", (Slot(1, 16, 16),), head_groups=1, block_tokens=16)
"""Blocks of 2 KiB: only how many of them there are room for counts here."""

FOOTPRINT = footprint(sum(plane.raw_bytes for plane in SPEC.planes()))
"""Bytes of memory that one takes."""

NAMESPACE = namespace_id(DEFAULT_NAMESPACE)
PATIENCE = 30.0


def chain_of(prompt: Prompt) -> Chain:
    """The keys of a prompt's blocks."""
    return Chain(fingerprint(SPEC), tuple(sha256(key).digest() for key in prompt.keys))


def block_of(key: bytes) -> Block:
    """A block of this key, whose bytes say which."""
    planes = SPEC.planes()
    data = [np.resize(np.frombuffer(key, dtype=np.uint8), plane.raw_bytes) for plane in planes]
    return Block(key, SPEC.block_tokens, planes, data)


def is_right(block: Block) -> bool:
    """Whether these are the bytes of its key."""
    return all(map(np.array_equal, block.data, block_of(block.key).data))


@dataclass
class Queues:
    """What is under way at each worker, in the virtual time of the simulator."""

    busy: dict[str, float] = field(default_factory=dict)
    load: Counter[str] = field(default_factory=Counter)
    ends: list[tuple[float, str]] = field(default_factory=list)

    def now(self, at: float) -> None:
        """Requests that are done by then are over."""
        while self.ends and self.ends[0][0] <= at:
            self.load[heapq.heappop(self.ends)[1]] -= 1

    def take(self, name: str, prompt: Prompt, computed: int) -> None:
        """A worker has one more, and computes so many blocks of it."""
        self.busy[name] = max(prompt.at, self.busy.get(name, 0.0)) + COMPUTE_SECONDS * computed
        self.load[name] += 1
        heapq.heappush(self.ends, (self.busy[name] + ANSWER_SECONDS * prompt.output, name))


@dataclass
class Played:
    """What became of the blocks of all prompts, and how often the directory was asked, by routers and by nodes."""

    prompts: int = 0
    blocks: int = 0
    hits: int = 0
    asked: int = 0
    asked_by_nodes: int = 0


@contextmanager
def router(port: int) -> Iterator[RedisDirectory]:
    """Who asks the directory in this Redis, and is no node."""
    directory = Redis(None, connect_timeout=PATIENCE, timeout=PATIENCE).start(Server(f"redis://127.0.0.1:{port}"))
    directory.open()
    try:
        yield directory
    finally:
        directory.close()


def choose(nodes: Mapping[str, RemoteStore], has: Counter[str], queues: Queues, shares: Shares, prompt: Prompt) -> str:
    """The worker of a prompt, as a gateway chooses it: by what its node has, by queues, by who gave too much."""
    free = {name for name in nodes if not (has[name] and shares.over(name, len(nodes), prompt.at))} or set(nodes)
    candidates = [Candidate(name, queues.load[name], has[name]) for name in nodes if name in free]
    return PrefixLoad().choose(candidates, Question(len(prompt.keys), prompt.keys[0])).name


def play(options: Options, count: int) -> Played:
    """Real stores on so many nodes, one prompt after the other; what is not found is put. Every block is verified."""
    assert options.data is not None
    workload = tiled(options.data / TRACE, 1, NODES, RATE)
    prompts = list(islice(workload.prompts(), QUICK_PROMPTS if options.quick else None))
    distinct = len({key for prompt in prompts for key in prompt.keys})
    played, queues, shares = Played(), Queues(), fair()
    with plain(count, int(MEMORY * distinct) * FOOTPRINT) as (port, nodes), router(port) as directory:
        until = time.monotonic() + PATIENCE
        while len(directory.lives()) < count:
            assert time.monotonic() < until, "the nodes did not join"
            directory.step()
            time.sleep(0.01)
        for prompt in prompts:
            queues.now(prompt.at)
            directory.step()
            keys = chain_of(prompt)
            found = directory.lookup(NAMESPACE, keys.keys, Deadline.after(PATIENCE))
            name = choose(nodes, stored(found), queues, shares, prompt)
            with nodes[name].read(keys, timeout=PATIENCE) as reading:
                blocks = [block for block, _ in reading]
            assert all(map(is_right, blocks)), "wrong bytes"
            missing = [block_of(key) for key in keys.keys[len(blocks) :]]
            if missing:
                put_blocks(nodes[name], keys.fingerprint, missing, timeout=PATIENCE)
            for where in found[: len(blocks)]:
                # who holds it gave it, the worker's own node first
                holders = sorted({life.node for life in where.holders}, key=lambda node: node != name)
                shares.gave(holders[0] if holders else name, 1, prompt.at)
            queues.take(name, prompt, len(missing))
            played.prompts += 1
            played.blocks += len(keys.keys)
            played.hits += len(blocks)
        played.asked = total(directory.figures(), "directory_lookups")
        played.asked_by_nodes = sum(total(node.stats(), "directory_lookups") for node in nodes.values())
    return played


def measure(report: Report, options: Options) -> None:
    """Rows `cluster.hit3` and `cluster.lookups`: three nodes beside one with the memory of all."""
    if options.data is None or not (options.data / TRACE).is_file():
        for id in ("cluster.hit3", "cluster.lookups"):
            report.skip(id, f"no {TRACE} (--data DIR)")
        return
    # no times are taken here, so that both may run at once
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        many, one = pool.map(play, repeat(options), (NODES, 1))
    report.add("cluster.hit3", many.hits / one.hits, "of one node's", bar=0.97, reach=1.0)
    report.add("cluster.hit3.hit_rate", many.hits / many.blocks, "of blocks")
    report.add("cluster.hit3.prompts", many.prompts, "prompts")
    report.add("cluster.lookups", many.asked / many.prompts, "round trips/prompt", "lower", bar=1.0, reach=0.1)
    report.add("cluster.lookups.nodes", many.asked_by_nodes / many.prompts, "round trips/prompt", "lower")
