"""A trace through a whole store: real index, policy and tiers; every block that comes back is compared."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cachestore.config import Table
from cachestore.errors import ConfigError, Unavailable
from cachestore.hashing import Chain
from cachestore.metrics import PUT_OUTCOMES, READ_OUTCOMES, total
from cachestore.replay.base import BATCH, Advance, Outcome, eviction_table
from cachestore.replay.payload import Payloads
from cachestore.replay.trace import Nodes, Trace
from cachestore.store.base import PutStatus, Store
from cachestore.store.compose import SECTIONS, compose
from cachestore.store.tiered import TieredStore

DEFAULT_TABLES: Mapping[str, Any] = {
    "tiers": [{"name": "cpu", "capacity": "64MiB"}, {"name": "redis", "url": "embedded", "capacity": "1GiB"}],
    "codecs": {"name": "raw"},
}
LARGEST_BLOCK = 16 << 20
ROOM_FOR_ONE = 2 * LARGEST_BLOCK
PATIENCE = 60.0
"""Seconds that a call, background work, or emptying the tiers may take."""


@dataclass(frozen=True)
class Through:
    """Replays through the store that the tables describe, with blocks of `block_bytes` bytes.

    The first tier holds `capacity` blocks, the others what is configured. Background work is waited for, as if requests
    came slowly. Blocks lie in a namespace of their own, which is emptied at the end: also in tiers that others use.
    """

    tables: Table
    block_bytes: int

    def __post_init__(self) -> None:
        if not 8 <= self.block_bytes <= LARGEST_BLOCK or self.block_bytes % 8:
            raise ConfigError(f"--block-bytes must be a multiple of 8, {LARGEST_BLOCK} at most, got {self.block_bytes}")

    def __call__(self, trace: Trace, policy: str, capacity: int, advance: Advance) -> Outcome:
        payloads = Payloads(self.block_bytes)
        tables = {name: self.tables[name] for name in SECTIONS if name in self.tables}
        tables["eviction"] = eviction_table(self.tables, policy)
        # room beyond all blocks that there are would only be memory taken
        room = min(capacity, trace.nodes) * _footprint(tables, payloads)
        with _fresh(_sized(tables, room)) as (tiered, store):
            run = _Run(tiered, store, payloads)
            started = time.perf_counter()
            for first in range(0, len(trace.requests), BATCH):
                batch = trace.requests[first : first + BATCH]
                for request in batch:
                    run.serve(request)
                advance(sum(map(len, batch)))
            seconds = time.perf_counter() - started
            hits = {name: run.hits[name] for name in (tiered.memory.name, *(tier.name for tier in tiered.cold))}
            return Outcome(sum(hits.values()), seconds, hits, run.wrong, run.not_kept, _sums_hold(store, hits))


@dataclass
class _Run:
    """One replay under way, and what it has seen."""

    tiered: TieredStore
    store: Store
    payloads: Payloads
    hits: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    not_kept: int = 0

    def serve(self, request: Nodes) -> None:
        """Reads what is there of one request and compares it; then puts the rest, while what is there stays."""
        if not request:
            return
        chain, found = self.payloads.chain(request), 0
        with self.store.read(chain, timeout=PATIENCE) as reading:
            for loaded, node in zip(reading, request, strict=False):
                self.hits[loaded.tier] += 1
                self.wrong += not self.payloads.holds(loaded.block, node)
                found += 1
        _settle(self.tiered)
        if found < len(request):
            lease = self.store.lease(chain.first(found))
            try:
                self._put(request, chain, found)
            finally:
                self.store.release(lease)
            _settle(self.tiered)

    def _put(self, request: Nodes, chain: Chain, found: int) -> None:
        after = chain.keys[found - 1] if found else None
        plans = self.payloads.plans(chain.behind(found))
        with self.store.put(chain.fingerprint, plans, after=after, timeout=PATIENCE) as put:
            for answer in put.answers:
                if answer.status is PutStatus.WANTED:
                    put.write(answer.block, 0, self.payloads.data(request[found + answer.block]))
            put.commit()
            self.not_kept += sum(answer.status in (PutStatus.NOT_KEPT, PutStatus.FAILED) for answer in put.answers)


def _sized(tables: Mapping[str, Any], capacity: int) -> dict[str, Any]:
    """The tables with a first tier of so many bytes, in one slab, so that no block is lost between two."""
    first, *others = tables["tiers"]
    return {**tables, "tiers": [{**first, "capacity": capacity, "slab": capacity}, *others]}


def _footprint(tables: Mapping[str, Any], payloads: Payloads) -> int:
    """Bytes that one block takes in the first tier."""
    alone = {**tables, "tiers": tables["tiers"][:1]}
    with _fresh(_sized(alone, ROOM_FOR_ONE)) as (tiered, store):
        _Run(tiered, store, payloads).serve((0,))
        used = tiered.memory.usage().used
    if not used:
        raise ConfigError(f"the first tier did not keep a block of {payloads.nbytes} bytes; lower --block-bytes")
    return used


@contextmanager
def _fresh(tables: Mapping[str, Any]) -> Iterator[tuple[TieredStore, Store]]:
    """The store of these tables, as a namespace sees it that nobody had before and that is empty afterwards."""
    with compose(tables) as tiered:
        store = tiered.namespace(f"replay-{os.urandom(8).hex()}")
        try:
            yield tiered, store
        finally:
            _empty(store)


def _empty(store: Store) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            store.clear(timeout=PATIENCE)
            return
        except Unavailable:
            # a tier that does not answer now may do so when its breaker lets it be asked again
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _settle(tiered: TieredStore) -> None:
    if not tiered.settle(PATIENCE):
        raise Unavailable(f"blocks are still moving between the tiers after {PATIENCE:g} s; is one of them stuck?")


def _sums_hold(store: Store, hits: Mapping[str, int]) -> bool:
    """Whether the store's figures add up, and say what was seen."""
    figures = store.stats()
    sums = {"read_blocks": READ_OUTCOMES, "put_blocks": PUT_OUTCOMES}
    add_up = all(total(figures, whole) == sum(total(figures, part) for part in parts) for whole, parts in sums.items())
    return add_up and all(total(figures, "read_hits", tier=tier) == seen for tier, seen in hits.items())
