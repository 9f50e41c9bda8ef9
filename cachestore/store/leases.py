"""Leases: who reads which blocks until when, and what became of each block that was read.

A lease becomes a read when `Read` takes it over; from then on each of its blocks is open until it is settled, once, as
hit, miss, corrupt or expired.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cachestore.index import Entry, Index
from cachestore.metrics import Counters
from cachestore.store.base import Purpose


@dataclass(eq=False, slots=True)
class Held:
    """One leased block. `entry` is None for a block of a cold tier, which nothing here can protect."""

    key: bytes
    entry: Entry | None
    tier: str
    open: bool = False


@dataclass(eq=False)
class Holding:
    """One lease."""

    id: bytes
    namespace: bytes
    fingerprint: bytes
    blocks: list[Held]
    ends: float
    counters: Counters
    purpose: Purpose | None = None
    asked: int = 0
    over: bool = False
    began: float = field(default_factory=time.monotonic)

    def read(self, purpose: Purpose, asked: int) -> None:
        """Counts a read of `asked` blocks under this lease; those it does not hold are misses at once.

        A read that is taken up again counts only what it asks for beyond the first time.
        """
        if asked <= self.asked:
            return
        before, self.asked = self.asked, asked
        purpose = self.purpose = self.purpose or purpose
        held = self.blocks[before:asked]
        self.counters.add("read_blocks", asked - before, purpose=purpose)
        self.counters.add("read_misses", asked - before - len(held), purpose=purpose)
        self.counters.add("read_open", len(held), purpose=purpose)
        for block in held:
            block.open = True

    def settle(self, outcomes: Iterable[tuple[Held, str]]) -> None:
        """Ends open blocks' counts as `read_<outcome>` each; a settled one stays as it is."""
        if self.purpose is None:
            return
        settled: Counter[tuple[str, str]] = Counter()
        for block, outcome in outcomes:
            if block.open:
                block.open = False
                settled[outcome, block.tier if outcome == "hits" else ""] += 1
        # counted once for all that are alike: a read's blocks mostly are
        for (outcome, tier), blocks in settled.items():
            self.counters.add("read_open", -blocks, purpose=self.purpose)
            labels = {"tier": tier} if outcome == "hits" else {}
            self.counters.add(f"read_{outcome}", blocks, purpose=self.purpose, **labels)


@dataclass(eq=False)
class Leases:
    """The open leases of one store. Callers hold the index's lock."""

    index: Index
    _open: dict[bytes, Holding] = field(default_factory=dict)

    def start(
        self, namespace: bytes, fingerprint: bytes, blocks: Sequence[Held], ttl: float, counters: Counters
    ) -> Holding:
        """A new lease on these blocks."""
        for block in blocks:
            if block.entry is not None:
                self.index.use(block.entry)
        ends = time.monotonic() + ttl
        holding = Holding(os.urandom(16), namespace, fingerprint, list(blocks), ends, counters)
        self._open[holding.id] = holding
        return holding

    def get(self, lease: bytes, namespace: bytes) -> Holding | None:
        """An open lease of this namespace."""
        holding = self._open.get(lease)
        return holding if holding is not None and holding.namespace == namespace else None

    def end(self, holding: Holding) -> None:
        """Ends a lease: whatever it still has open is expired, and its blocks may leave."""
        if self._open.pop(holding.id, None) is None:
            return
        holding.over = True
        if holding.purpose is not None:
            holding.counters.took("read", time.monotonic() - holding.began)
        holding.settle((block, "expired") for block in holding.blocks)
        for block in holding.blocks:
            if block.entry is not None:
                self.index.leave(block.entry)

    def expire(self) -> None:
        """Ends every lease whose time is over."""
        now = time.monotonic()
        for holding in [holding for holding in self._open.values() if holding.ends <= now]:
            self.end(holding)

    def count(self, namespace: bytes) -> int:
        """Open leases of one namespace."""
        return sum(holding.namespace == namespace for holding in self._open.values())
