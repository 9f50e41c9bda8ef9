"""A store in this process, as one namespace sees it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.block import WHOLE, Part
from cachestore.deadline import Deadline
from cachestore.errors import DurabilityUnmet, InvalidArgument, LeaseExpired, Unavailable
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.metrics import Figure
from cachestore.store.base import (
    TIMEOUT,
    BlockPlan,
    Durability,
    Lease,
    Lookup,
    Purpose,
    Verdict,
    runs_of,
)
from cachestore.store.granting import grant, locate
from cachestore.store.inspection import copy_is_good
from cachestore.store.leases import Held, Holding
from cachestore.store.put import LocalPut
from cachestore.store.reading import LocalReading, SealedReading

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


LONGEST_TTL = 10 * 366 * 86400.0
"""Ten years: what is meant to stay longer is no cache."""


@dataclass(eq=False)
class LocalStore:
    """One tenant's view of a `TieredStore`; follows `cachestore.store.base.Store`."""

    tiered: TieredStore
    namespace: bytes
    _puts: dict[bytes, LocalPut] = field(default_factory=dict)

    def lookup(self, chain: Chain, *, timeout: float = TIMEOUT) -> Lookup:
        deadline = Deadline.after(timeout)
        found = locate(self.tiered, self.namespace, chain, deadline)
        tiers = [block.tier for block in found]
        with self.tiered.index.changed:
            behind = chain.keys[len(found) :]
            writing = 0
            while writing < len(behind) and self.tiered.index.writing(self.namespace, behind[writing]):
                writing += 1
        counters = self.tiered.counters(self.namespace)
        counters.add("lookups")
        counters.add("lookup_blocks", len(chain))
        return Lookup(len(found), runs_of(tiers, self.tiered.settings.node), writing)

    def lease(self, chain: Chain, *, ttl: float | None = None, timeout: float = TIMEOUT) -> Lease:
        return self._lease(grant(self.tiered, self.namespace, chain, self._ttl(ttl), Deadline.after(timeout)))

    def renew(self, lease_id: bytes, ttl: float) -> Lease:
        """Prolongs a lease to `ttl` seconds from now; LeaseExpired if it is unknown or over."""
        with self.tiered.index.changed:
            holding = self._holding(lease_id)
            holding.ends = time.monotonic() + self._ttl(ttl)
            return self._lease(holding)

    def release(self, lease: Lease, verdicts: Sequence[Verdict] = (), *, timeout: float = TIMEOUT) -> None:
        deadline = Deadline.after(timeout)
        with self.tiered.index.changed:
            holding = self._holding(lease.id)
            if len(verdicts) > len(holding.blocks):
                raise InvalidArgument(f"{len(verdicts)} verdicts for a lease of {len(holding.blocks)} blocks")
        for block, verdict in zip(holding.blocks, verdicts, strict=False):
            if verdict is Verdict.CORRUPT:
                self._examine(holding, block, deadline)
        with self.tiered.index.changed:
            used = [block.key for block, verdict in zip(holding.blocks, verdicts, strict=False) if verdict is _USED]
            self.tiered.index.touch(self.namespace, used)
            for index, block in enumerate(holding.blocks):
                verdict = verdicts[index] if index < len(verdicts) else Verdict.UNREAD
                holding.settle(block, _OUTCOMES[verdict])
            self.tiered.leases.end(holding)

    def read(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        lease: Lease | None = None,
        wait: float = 0.0,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> LocalReading:
        return LocalReading(self.open(chain, part=part, lease=lease, wait=wait, purpose=purpose, timeout=timeout))

    def open(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        lease: Lease | None = None,
        ttl: float | None = None,
        wait: float = 0.0,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> SealedReading:
        """A read in sealed form, for whoever hands it on: takes a lease (or `lease` over) and counts the blocks."""
        deadline = Deadline.after(timeout)
        if lease is None:
            holding = grant(self.tiered, self.namespace, chain, self._ttl(ttl), deadline, wait)
        else:
            with self.tiered.index.changed:
                holding = self._holding(lease.id)
            same = all(held.key == key for held, key in zip(holding.blocks, chain.keys, strict=False))
            if not same or holding.fingerprint != chain.fingerprint:
                raise InvalidArgument("the lease given is for another chain")
        with self.tiered.index.changed:
            holding.read(purpose, len(chain))
        return SealedReading(
            self.tiered, holding, self._lease(holding), part, deadline, min(len(chain), len(holding.blocks))
        )

    def put(
        self,
        fingerprint: bytes,
        plans: Sequence[BlockPlan],
        *,
        durability: Durability = Durability.CACHE,
        ttl: float | None = None,
        timeout: float = TIMEOUT,
    ) -> LocalPut:
        if durability is Durability.DURABLE and not any(tier.durable for tier in self.tiered.cold):
            raise DurabilityUnmet(
                "no configured tier survives a killed process, so DURABLE cannot be acknowledged; put with CACHE"
            )
        if ttl is not None and not 1e-3 <= ttl <= LONGEST_TTL:
            raise InvalidArgument(f"ttl must lie between a millisecond and {LONGEST_TTL} seconds, got {ttl}")
        chain = Chain(fingerprint, tuple(plan.key for plan in plans))
        put = LocalPut(self, chain, list(plans), ttl, Deadline.after(timeout))
        put.on_end = lambda: self._puts.pop(put.id, None)
        try:
            put.reserve()
        except BaseException:
            put.abort()
            raise
        self._puts[put.id] = put
        return put

    def abort(self, put_id: bytes) -> int:
        """Gives up an open put; how many blocks were dropped."""
        with self.tiered.index.changed:
            put = self._puts.get(put_id)
        return put.give_up() if put is not None else 0

    def delete(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        deadline = Deadline.after(timeout)
        with self.tiered.index.changed:
            self.tiered.removing(self.namespace)
            entries = [self.tiered.index.get(Name(self.namespace, key)) for key in chain.keys]
            removed = set()
            for entry in entries:
                if entry is not None and entry.ready:
                    self._withdraw(entry, "deleted")
                    removed.add(entry.name.key)
        for tier in self.tiered.cold:
            gone = tier.delete_many(self.namespace, chain.keys, deadline)
            if gone is None:
                raise _unreached(tier.name)
            self.tiered.counters(self.namespace).add("tier_removed", sum(gone), tier=tier.name, why="deleted")
            removed.update(key for key, there in zip(chain.keys, gone, strict=True) if there)
        return len(removed)

    def clear(self, tier: str = "", *, timeout: float = TIMEOUT) -> int:
        deadline = Deadline.after(timeout)
        names = [self.tiered.memory.name, *(cold.name for cold in self.tiered.cold)]
        if tier and tier not in names:
            raise InvalidArgument(f"tier {tier!r} is not one of this store's: {', '.join(names)}")
        removed: set[bytes] = set()
        with self.tiered.index.changed:
            self.tiered.removing(self.namespace)
            for entry in self.tiered.index.entries(self.namespace):
                if not tier:
                    self._withdraw(entry, "cleared")
                elif tier == self.tiered.memory.name:
                    self.tiered.forget(entry, "cleared")
                else:
                    entry.cold.discard(tier)
                    entry.withdrawn = True
                    continue
                removed.add(entry.name.key)
        for cold in self.tiered.cold:
            if tier in ("", cold.name):
                gone = cold.clear(self.namespace, deadline)
                if gone is None:
                    raise _unreached(cold.name)
                self.tiered.counters(self.namespace).add("tier_removed", len(gone), tier=cold.name, why="cleared")
                removed |= gone
        return len(removed)

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        Deadline.after(timeout)
        with self.tiered.index.changed:
            figures = list(self.tiered.counters(self.namespace).figures())
        usages = {self.tiered.memory.name: self.tiered.memory.usage()}
        usages |= {cold.name: cold.usage() for cold in self.tiered.cold}
        for name, usage in usages.items():
            figures.append(Figure("tier_used_bytes", (("tier", name),), usage.used))
            figures.append(Figure("tier_capacity_bytes", (("tier", name),), usage.capacity))
        figures += [Figure("tier_healthy", (("tier", cold.name),), int(cold.healthy)) for cold in self.tiered.cold]
        with self.tiered.index.changed:
            figures.append(Figure("leases_open", (), self.tiered.leases.count(self.namespace)))
            figures.append(Figure("puts_open", (), len(self._puts)))
        return sorted(figures)

    def close(self) -> None:
        """Aborts this namespace's open puts; the tiers belong to the `TieredStore`."""
        for put in list(self._puts.values()):
            put.abort()

    def expire_puts(self) -> None:
        """Aborts the puts whose deadline has passed."""
        for put in list(self._puts.values()):
            if not put.deadline.remaining():
                put.abort()

    def _holding(self, lease_id: bytes) -> Holding:
        self.tiered.leases.expire()
        holding = self.tiered.leases.get(lease_id, self.namespace)
        if holding is None:
            raise LeaseExpired("the lease is unknown, released, or its time is over; take a new one")
        return holding

    def _lease(self, holding: Holding) -> Lease:
        runs = runs_of([block.tier for block in holding.blocks], self.tiered.settings.node)
        return Lease(holding.id, len(holding.blocks), max(0.0, holding.ends - time.monotonic()), runs)

    def _ttl(self, ttl: float | None) -> float:
        longest = self.tiered.settings.longest_lease
        if ttl is None:
            return self.tiered.settings.lease
        if not 0 < ttl <= longest:
            raise InvalidArgument(f"a lease lasts more than 0 and at most {longest} seconds, got {ttl}")
        return ttl

    def _withdraw(self, entry: Entry, why: str) -> None:
        entry.withdrawn = True
        self.tiered.forget(entry, why)

    def _examine(self, holding: Holding, block: Held, deadline: Deadline) -> None:
        """A reader found this block corrupt: drops the copy it read, unless it broke on the way or is gone since."""
        name = Name(self.namespace, block.key)
        counters = self.tiered.counters(self.namespace)
        if copy_is_good(self.tiered.cold, block.entry, block.tier, name, holding.fingerprint, deadline) is not False:
            counters.add("corruptions", tier="transit", reason="checksum")
            return
        counters.add("corruptions", tier=block.tier, reason="checksum")
        if block.entry is not None:
            with self.tiered.index.changed:
                self.tiered.forget(block.entry, "corrupt")
        else:
            for tier in self.tiered.cold:
                if tier.name == block.tier:
                    tier.delete_many(self.namespace, [block.key], deadline)


def _unreached(tier: str) -> Unavailable:
    return Unavailable(f"tier {tier} could not be asked in time and may still have blocks; repeat the call")


_USED = Verdict.USED
_OUTCOMES = {Verdict.USED: "hits", Verdict.CORRUPT: "corrupt", Verdict.UNREAD: "misses"}
