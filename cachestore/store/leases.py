"""Leases: who reads which blocks until when, and what became of each block that was read.

A lease becomes a read when `Read` takes it over; from then on each of its blocks is open until it is settled, once, as
hit, miss, corrupt or expired.
"""

import heapq
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cachestore.errors import InvalidArgument, Overloaded
from cachestore.index import Entry, Index
from cachestore.metrics import Counters
from cachestore.store.base import Purpose
from cachestore.store.owned_page import OwnedPage
from cachestore.tiers.base import ColdTier, Protecting

ID_BYTES = 16
"""Of a lease's name: whoever draws it, no two are alike."""

MOST = 1 << 16
"""Open leases of one namespace: more than its readers can use at a time, less than they could open in a minute."""

MOST_BLOCKS = 1 << 20
"""Leased blocks of one namespace, each counted for every lease on it: what its leases take of memory."""

SLACK = 64
"""Ends that are kept of leases which are over, beyond as many as are open."""


@dataclass(eq=False, slots=True)
class Held:
    """One leased block. `entry` is None for a block of a lower tier, which `protector` spares if it can."""

    key: bytes
    entry: Entry | None
    tier: str
    open: bool = False
    protector: Protecting | None = None
    node: str = ""
    """Which other node it is read from, if it is."""
    page: OwnedPage | None = None
    """Where its reader finds it, if that is in a page of another process; `entry` is a copy in memory beside it."""


@dataclass(eq=False)
class Holding:
    """One lease. `tiers` are those below memory in which its blocks are looked for."""

    id: bytes
    namespace: bytes
    fingerprint: bytes
    blocks: list[Held]
    ends: float
    counters: Counters
    tiers: Sequence[ColdTier] = ()
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
        settled = list[tuple[str, str]]()
        for block, outcome in outcomes:
            if block.open:
                block.open = False
                settled.append((outcome, block.tier if outcome == "hits" else ""))
        # counted once for all that are alike: a read's blocks mostly are
        for (outcome, tier), blocks in Counter(settled).items():
            self.counters.add("read_open", -blocks, purpose=self.purpose)
            labels = {"tier": tier} if outcome == "hits" else {}
            self.counters.add(f"read_{outcome}", blocks, purpose=self.purpose, **labels)


@dataclass(eq=False)
class Leases:
    """The open leases of one store, `most` for each namespace, of `most_blocks`. Callers hold the index's lock."""

    index: Index
    most: int = MOST
    most_blocks: int = MOST_BLOCKS
    _open: dict[bytes, Holding] = field(default_factory=dict)
    _counts: Counter[bytes] = field(default_factory=Counter)
    _blocks: Counter[bytes] = field(default_factory=Counter)
    _ending: list[tuple[float, bytes]] = field(default_factory=list)
    """When to look at which lease again, soonest first: at its end, or before it was prolonged."""

    def start(
        self,
        namespace: bytes,
        fingerprint: bytes,
        blocks: Sequence[Held],
        ttl: float,
        counters: Counters,
        name: bytes = b"",
    ) -> Holding:
        """A new lease on these blocks, `name` or one drawn here, of `ID_BYTES`; InvalidArgument if there is that one.

        Overloaded if the namespace has too many leases, or too many blocks in them.
        """
        if name in self._open:
            raise InvalidArgument("there is a lease of this name; draw one at random for each read")
        if self._full(namespace, len(blocks)):
            self.expire()
        full = self._full(namespace, len(blocks))
        if full:
            counters.add("leases_refused")
            raise Overloaded(f"{full}; release those that are not read, or ask for shorter ones")
        for block in blocks:
            if block.entry is not None:
                self.index.use(block.entry)
        ends = time.monotonic() + ttl
        holding = Holding(name or os.urandom(ID_BYTES), namespace, fingerprint, list(blocks), ends, counters)
        self._open[holding.id] = holding
        self._counts[namespace] += 1
        self._blocks[namespace] += len(holding.blocks)
        heapq.heappush(self._ending, (ends, holding.id))
        return holding

    def renew(self, holding: Holding, ttl: float) -> None:
        """Lets an open lease end in `ttl` seconds, sooner or later than it would have."""
        before, holding.ends = holding.ends, time.monotonic() + ttl
        # a later end is found when the earlier one has come
        if holding.ends < before:
            heapq.heappush(self._ending, (holding.ends, holding.id))
            self._tidy()

    def get(self, lease: bytes, namespace: bytes) -> Holding | None:
        """An open lease of this namespace."""
        holding = self._open.get(lease)
        return holding if holding is not None and holding.namespace == namespace else None

    def end(self, holding: Holding) -> None:
        """Ends a lease: whatever it still has open is expired, and its blocks may leave."""
        if self._open.pop(holding.id, None) is None:
            return
        self._counts[holding.namespace] -= 1
        self._blocks[holding.namespace] -= len(holding.blocks)
        if not self._counts[holding.namespace]:
            del self._counts[holding.namespace], self._blocks[holding.namespace]
        self._tidy()
        holding.over = True
        if holding.purpose is not None:
            holding.counters.took("read", time.monotonic() - holding.began)
        holding.settle((block, "expired") for block in holding.blocks)
        protected: dict[Protecting, list[bytes]] = {}
        for block in holding.blocks:
            if block.protector is not None:
                protected.setdefault(block.protector, []).append(block.key)
            if block.entry is not None:
                self.index.leave(block.entry)
        for tier, keys in protected.items():
            tier.unprotect(holding.namespace, keys)

    def expire(self) -> None:
        """Ends every lease whose time is over."""
        now = time.monotonic()
        while self._ending and self._ending[0][0] <= now:
            holding = self._open.get(heapq.heappop(self._ending)[1])
            if holding is None:
                continue
            if holding.ends <= now:
                self.end(holding)
            else:
                heapq.heappush(self._ending, (holding.ends, holding.id))

    def count(self, namespace: bytes) -> int:
        """Open leases of one namespace."""
        return self._counts[namespace]

    def _full(self, namespace: bytes, blocks: int) -> str:
        """Why a lease on so many blocks cannot be had, if so."""
        if self._counts[namespace] >= self.most:
            return f"this namespace has {self.most} open leases"
        if self._blocks[namespace] + blocks > self.most_blocks:
            return (
                f"this namespace has open leases on {self._blocks[namespace]} blocks, so that {blocks} more would be "
                f"above the {self.most_blocks} that are allowed"
            )
        return ""

    def _tidy(self) -> None:
        # most leases are released long before their end
        if len(self._ending) > 2 * len(self._open) + SLACK:
            self._ending = [(holding.ends, holding.id) for holding in self._open.values()]
            heapq.heapify(self._ending)
