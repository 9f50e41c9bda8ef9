"""The store of one node: a memory tier in front, cold tiers behind it.

1. Every block is written to memory and served from memory or straight from a cold tier; nothing is visible before it
   is published, nothing is handed out before it is checked.
2. When memory is full, blocks that nobody uses leave in the order of the eviction policy. One that no cold tier has is
   copied down first; if that fails it is dropped, and counted.
3. A block read from a cold tier comes back into memory behind the reader's back.
4. Memory and index change under `index.changed`; bytes move, and tiers are asked, without it.
"""

import heapq
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.eviction.base import Eviction
from cachestore.hashing import namespace_id
from cachestore.index import Entry, Index, Name
from cachestore.metrics import Counters
from cachestore.mover import Mover
from cachestore.seal import Header
from cachestore.store.copying import copy_down
from cachestore.store.inspection import intact
from cachestore.store.leases import Leases
from cachestore.store.local import LocalStore
from cachestore.store.settings import StoreSettings
from cachestore.tiers.base import ColdTier, Departure
from cachestore.tiers.cpu import CpuTier
from cachestore.tiers.slab import Slot

MOVE_SECONDS = 10.0
"""The deadline of a move that nobody waits for."""

PROMOTION_BYTES = 64 << 20
"""Blocks on their way back into memory may hold this much; further ones stay where they are."""


@dataclass(eq=False)
class TieredStore:
    """Tiers, index and policies of one node; `namespace` gives the store as one tenant sees it."""

    memory: CpuTier
    cold: Sequence[ColdTier]
    codec: Codec
    eviction: Eviction
    settings: StoreSettings = field(default_factory=StoreSettings)
    incarnation: bytes = field(default_factory=lambda: os.urandom(16))
    index: Index = field(init=False)
    leases: Leases = field(init=False)
    mover: Mover = field(init=False)
    _namespaces: dict[str, LocalStore] = field(default_factory=dict)
    _counters: dict[bytes, Counters] = field(default_factory=dict)
    _sequence: Iterator[int] = field(default_factory=lambda: count(1))
    _removals: dict[bytes, int] = field(default_factory=dict)
    _ending: list[tuple[float, Name]] = field(default_factory=list)
    """When blocks with a time to live end; names only, since an entry would hold on to memory that was given up."""
    _promoting: int = 0
    _moving: int = 0
    """Copies under way that keep blocks in use; after them more may leave."""

    def __post_init__(self) -> None:
        self.index = Index(self.eviction, self.memory.give)
        self.leases = Leases(self.index)
        self.mover = Mover(self.expire, backlog=self.settings.backlog)

    def open(self) -> None:
        """Acquires the tiers and starts the threads; if one tier cannot be used, the others are given back."""
        opened: list[ColdTier] = []
        try:
            for tier in self.cold:
                tier.open(self._departed)
                opened.append(tier)
        except BaseException:
            for tier in opened:
                tier.close()
            raise
        self.mover.open()

    def close(self) -> None:
        """Finishes what is under way and gives everything back. Closing twice is allowed."""
        self.mover.close()
        for tier in self.cold:
            tier.close()
        self.memory.close()

    def __enter__(self) -> "TieredStore":
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def namespace(self, name: str) -> LocalStore:
        """The store as the tenant `name` sees it."""
        with self.index.changed:
            if name not in self._namespaces:
                self._namespaces[name] = LocalStore(self, namespace_id(name))
            return self._namespaces[name]

    def counters(self, namespace: bytes) -> Counters:
        """The counters of one namespace."""
        with self.index.changed:
            return self._counters.setdefault(namespace, Counters())

    def next_sequence(self) -> int:
        """The number of the next block that this store seals."""
        return next(self._sequence)

    def settle(self, timeout: float = MOVE_SECONDS) -> bool:
        """Waits until nothing moves in the background; False if the time is over first."""
        return self.mover.settle(timeout)

    def expire(self) -> None:
        """Ends the leases, blocks and puts whose time is over."""
        with self.index.changed:
            self.leases.expire()
            while self._ending and self._ending[0][0] <= time.monotonic():
                ends, name = heapq.heappop(self._ending)
                entry = self.index.get(name)
                # another block of this name may have come since
                if entry is not None and entry.ends == ends:
                    self.forget(entry, "ttl")
            namespaces = list(self._namespaces.values())
        for store in namespaces:
            store.expire_puts()

    def take(self, namespace: bytes, nbytes: int, deadline: Deadline) -> Slot | None:
        """Memory for a block, others leaving for it as far as they may; None if too little may leave in time."""
        while True:
            with self.index.changed:
                slot = self.memory.take(namespace, nbytes)
                if slot is not None or not deadline.remaining():
                    return slot
                leaving = self.index.evict(nbytes)
                if not leaving and not self._moving:
                    return None
                if not leaving:
                    # what others are just copying may leave then, and may be enough
                    self.index.changed.wait(deadline.remaining())
                    continue
                self._moving += 1
            try:
                self._evict(leaving, deadline)
            finally:
                with self.index.changed:
                    self._moving -= 1
                    self.index.changed.notify_all()

    def publish(self, entry: Entry, ttl: float | None = None) -> None:
        """Makes a written block visible, for `ttl` seconds at most, and counts it. Called under the lock."""
        self.index.publish(entry)
        if ttl is not None:
            entry.ends = time.monotonic() + ttl
            heapq.heappush(self._ending, (entry.ends, entry.name))
        counters = self.counters(entry.name.namespace)
        counters.add("tier_added", tier=self.memory.name)
        counters.add("tier_blocks", tier=self.memory.name)
        counters.add("tier_bytes", entry.slot.nbytes, tier=self.memory.name)

    def forget(self, entry: Entry, why: str) -> None:
        """Takes a published block out of memory, and counts it. Called under the lock."""
        if entry.gone:
            return
        counters = self.counters(entry.name.namespace)
        counters.add("tier_removed", tier=self.memory.name, why=why)
        counters.add("tier_blocks", -1, tier=self.memory.name)
        counters.add("tier_bytes", -entry.slot.nbytes, tier=self.memory.name)
        self.index.remove(entry)

    def write_through(self, entries: Sequence[Entry]) -> None:
        """Copies published blocks to the cold tiers in the background."""
        if not self.cold or self.settings.write != "through" or not entries:
            return
        if self.mover.submit(lambda: self._through(entries)) is None:
            self.counters(entries[0].name.namespace).add("write_through_skipped", len(entries))

    def removals(self, namespace: bytes) -> int:
        """How often blocks of this namespace were deleted or cleared."""
        with self.index.changed:
            return self._removals.get(namespace, 0)

    def removing(self, namespace: bytes) -> None:
        """Says that blocks of this namespace are about to be removed: none of it may come back. Under the lock."""
        self._removals[namespace] = self._removals.get(namespace, 0) + 1

    def promote(self, name: Name, header: Header, sealed: Buffer, tier: str, as_of: int) -> None:
        """Brings a block that was read from the cold tier `tier` into memory, in the background.

        `as_of` is what `removals` said before it was read: a removal since then may mean this block.
        """
        with self.index.changed:
            if self._promoting + sealed.nbytes > PROMOTION_BYTES or self.index.get(name) is not None:
                return
            self._promoting += sealed.nbytes
        if self.mover.submit(lambda: self._promote(name, header, sealed, tier, as_of)) is None:
            with self.index.changed:
                self._promoting -= sealed.nbytes

    def check(self) -> None:
        """Asserts what must hold between calls: caps, and counted blocks equal to those there are."""
        with self.index.changed:
            usage = self.memory.usage()
            assert usage.used <= self.memory.taken <= usage.capacity
            for namespace, counters in self._counters.items():
                figures = {(f.name, f.label("tier")): f.value for f in counters.figures()}
                entries = self.index.entries(namespace)
                assert figures.get(("tier_blocks", self.memory.name), 0) == len(entries)
                assert figures.get(("tier_bytes", self.memory.name), 0) == sum(e.slot.nbytes for e in entries)

    def _departed(self, departures: Sequence[Departure]) -> None:
        """A cold tier let blocks go by itself."""

    def _evict(self, entries: Sequence[Entry], deadline: Deadline) -> None:
        homeless = [entry for entry in entries if not entry.cold]
        try:
            copy_down(self, homeless, deadline)
        finally:
            with self.index.changed:
                for entry in entries:
                    self.index.leave(entry)
                    # somebody may have taken a lease on it while it was copied: then it stays
                    if entry.gone:
                        continue
                    if entry.users:
                        self.index.stay(entry)
                    else:
                        self._evicted(entry, entry in homeless)

    def _evicted(self, entry: Entry, homeless: bool) -> None:
        counters = self.counters(entry.name.namespace)
        counters.add("evicted", tier=self.memory.name)
        if homeless and entry.cold:
            counters.add("demoted", tier=min(entry.cold))
        elif not entry.cold:
            counters.add("dropped")
        self.forget(entry, "evicted")

    def _through(self, entries: Sequence[Entry]) -> None:
        with self.index.changed:
            staying = [entry for entry in entries if not entry.gone and not entry.cold]
            for entry in staying:
                self.index.use(entry)
            self._moving += 1
        try:
            copy_down(self, staying, Deadline.after(MOVE_SECONDS))
        finally:
            with self.index.changed:
                for entry in staying:
                    self.index.leave(entry)
                self._moving -= 1
                self.index.changed.notify_all()

    def _promote(self, name: Name, header: Header, sealed: Buffer, tier: str, as_of: int) -> None:
        try:
            if not intact(header, sealed[header.size :]):
                return
            slot = self.take(name.namespace, sealed.nbytes, Deadline.after(MOVE_SECONDS))
            if slot is None:
                return
            np.copyto(slot.bytes, sealed)
            with self.index.changed:
                if self.index.get(name) is not None or self.removals(name.namespace) != as_of:
                    self.memory.give(slot)
                    return
                entry = self.index.reserve(name, header.fingerprint, slot)
                entry.cold.add(tier)
                self.publish(entry)
                self.counters(name.namespace).add("promoted", tier=self.memory.name)
        finally:
            with self.index.changed:
                self._promoting -= sealed.nbytes
