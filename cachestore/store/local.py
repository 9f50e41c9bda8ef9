"""A store in this process, as one namespace sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.block import WHOLE, Into, Part
from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, InvalidArgument, LeaseExpired
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.store import figures, pinning, removal
from cachestore.store.base import TIMEOUT, BlockPlan, Durability, Lease, Lookup, Pin, Purpose, Verdict
from cachestore.store.checks import check_after, check_into, check_provisional, in_one
from cachestore.store.durability import durable_tiers
from cachestore.store.granting import grant
from cachestore.store.joint import check_groups
from cachestore.store.leases import Holding
from cachestore.store.local_reading import LocalReading
from cachestore.store.looking import look
from cachestore.store.open_puts import OpenPuts
from cachestore.store.owned_page import Show
from cachestore.store.paged import leave, missed
from cachestore.store.provisional import Following
from cachestore.store.provisional_reading import ProvisionalReading
from cachestore.store.put import LocalPut
from cachestore.store.reading import SealedReading
from cachestore.store.received import Received
from cachestore.store.runs import runs_at
from cachestore.store.verdicts import settle
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


LONGEST_TTL = 10 * 366 * 86400.0
"""Ten years: what is meant to stay longer is no cache."""


@dataclass(eq=False)
class LocalStore:
    """One tenant's view of a `TieredStore`; follows `cachestore.store.base.Store`.

    With `alone` it is another node's, which asks whom it likes itself: from here no further nodes are asked.
    """

    tiered: TieredStore
    namespace: bytes
    alone: bool = False
    puts: OpenPuts = field(init=False)

    def __post_init__(self) -> None:
        self.puts = OpenPuts(self.tiered, self.namespace)

    def lookup(self, chain: Chain, *, show: Show | None = None, timeout: float = TIMEOUT) -> Lookup:
        """As the interface says; the pages that `show` has for its caller come first."""
        deadline = Deadline.after(timeout)
        counters = self.tiered.counters(self.namespace)
        with counters.timed("lookup"):
            found = look(self.tiered, self.namespace, chain, show, self._tiers(chain.fingerprint), deadline)
        counters.add("lookups")
        counters.add("lookup_blocks", len(chain))
        return found

    def near(self, *, timeout: float = TIMEOUT) -> bool:
        return True

    def lease(self, chain: Chain, *, ttl: float | None = None, timeout: float = TIMEOUT) -> Lease:
        with self.tiered.counters(self.namespace).timed("lease"):
            holding = self._grant(chain, self.lease_ttl(ttl), Deadline.after(timeout))
            self.tiered.promotion.prefetch(holding)
            return self._lease(holding)

    def renew(self, lease_id: bytes, ttl: float) -> Lease:
        """Prolongs a lease to `ttl` seconds from now; LeaseExpired if it is unknown or over."""
        with self.tiered.index.changed:
            holding = self._holding(lease_id)
            self.tiered.leases.renew(holding, self.lease_ttl(ttl))
            return self._lease(holding)

    def lease_ttl(self, ttl: float | None) -> float:
        """The seconds of a lease that is asked for with this `ttl`; InvalidArgument if no lease may last so long."""
        longest = self.tiered.settings.longest_lease
        if ttl is None:
            return self.tiered.settings.lease
        if not 0 < ttl <= longest:
            raise InvalidArgument(f"a lease lasts more than 0 and at most {longest} seconds, got {ttl}")
        return ttl

    def release(self, lease: Lease, verdicts: Sequence[Verdict] = (), *, timeout: float = TIMEOUT) -> None:
        deadline = Deadline.after(timeout)
        with self.tiered.index.changed:
            holding = self._holding(lease.id)
        settle(self.tiered, holding, verdicts, deadline)

    def missed(self, lease_id: bytes, block: int, *, timeout: float = TIMEOUT) -> None:
        """A leased block was not to be had from its page; LeaseExpired if the lease is unknown or over."""
        with self.tiered.index.changed:
            holding = self._holding(lease_id)
        missed(self.tiered, holding, block, Deadline.after(timeout))

    def read(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        into: Sequence[Into] | None = None,
        lease: Lease | None = None,
        wait: float = 0.0,
        provisional: bool = False,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
    ) -> LocalReading | ProvisionalReading:
        check_into(into, len(chain))
        if provisional:
            check_provisional(lease, into)
            deadline = Deadline.after(timeout)

            def begin(received: Mapping[int, Received]) -> LocalReading:
                sealed = self.open(chain, part=part, purpose=purpose, timeout=max(deadline.remaining(), 1e-3))
                return LocalReading(sealed, into, received)

            return ProvisionalReading(self.follow(chain, wait, deadline), part, in_one(into), deadline, begin)
        sealed = self.open(chain, part=part, lease=lease, wait=wait, purpose=purpose, timeout=timeout)
        return LocalReading(sealed, into)

    def follow(self, chain: Chain, wait: float, deadline: Deadline) -> Following:
        """What of `chain` is being written in the next `wait` seconds."""
        until = Deadline(min(deadline.at, time.monotonic() + wait))
        return Following(self.tiered, self.namespace, chain, until, self._tiers(chain.fingerprint))

    def open(
        self,
        chain: Chain,
        *,
        part: Part = WHOLE,
        lease: Lease | None = None,
        ttl: float | None = None,
        wait: float = 0.0,
        over: Callable[[], bool] | None = None,
        show: Show | None = None,
        first: int = 0,
        purpose: Purpose = Purpose.REUSE,
        timeout: float = TIMEOUT,
        new_lease: bytes = b"",
    ) -> SealedReading:
        """A read in sealed form, for whoever hands it on: takes a lease (or `lease` over) and counts the blocks.

        `over` is asked often while it waits for blocks that are being written, and ends the wait when it says so.
        Blocks before `first` are not handed out: under a lease given, they have been. A reader that can open pages
        says so by `show`; any other is given copies of what they hold. `new_lease` names the lease that is taken here.
        """
        deadline = Deadline.after(timeout)
        if lease is None:
            ends = self.lease_ttl(ttl)
            holding = self._grant(chain, ends, deadline, wait, over, show, new_lease)
        else:
            with self.tiered.index.changed:
                holding = self._holding(lease.id)
            same = all(held.key == key for held, key in zip(holding.blocks, chain.keys, strict=False))
            if not same or holding.fingerprint != chain.fingerprint:
                raise InvalidArgument("the lease given is for another chain")
            if show is None:
                leave(self.tiered, holding, first, deadline)
        with self.tiered.index.changed:
            holding.read(Purpose.PEER if self.alone else purpose, len(chain))
        return SealedReading(
            self.tiered, holding, self._lease(holding), part, deadline, min(len(chain), len(holding.blocks)), first
        )

    def put(
        self,
        fingerprint: bytes,
        plans: Sequence[BlockPlan],
        *,
        after: bytes | None = None,
        codec: Codec | None = None,
        durability: Durability = Durability.CACHE,
        ttl: float | None = None,
        groups: range | None = None,
        timeout: float = TIMEOUT,
        owner: bytes = b"",
    ) -> LocalPut:
        """As the interface says; the blocks of an `owner`, who writes from outside, get memory that is its own."""
        try:
            self.tiered.check_puts()
            groups = check_groups(groups, plans, durability)
            if durability is Durability.DURABLE:
                durable_tiers(self.tiered, self.namespace)
            if ttl is not None and not 1e-3 <= ttl <= LONGEST_TTL:
                raise InvalidArgument(f"ttl must lie between a millisecond and {LONGEST_TTL} seconds, got {ttl}")
            chain = Chain(fingerprint, tuple(plan.key for plan in plans))
            check_after(after, chain.keys)
            deadline = Deadline.after(timeout)
            put = LocalPut(
                self, chain, list(plans), codec or self.tiered.codec, ttl, deadline, after, durability, owner, groups
            )
        except CacheStoreError as error:
            self.puts.refused(len(plans), error.reason)
            raise
        self.puts.begin(put)
        return put

    def abort(self, put_id: bytes) -> int:
        """Gives up an open put; how many blocks were dropped."""
        return self.puts.abort(put_id)

    def pin(self, chain: Chain, ttl: float, *, timeout: float = TIMEOUT) -> int:
        deadline = Deadline.after(timeout)
        if not 1e-3 <= ttl <= LONGEST_TTL:
            raise InvalidArgument(f"a pin lasts a millisecond to {LONGEST_TTL} seconds, got {ttl}")
        holding = self._grant(chain, self.lease_ttl(None), deadline)
        return pinning.pin(self.tiered, holding, chain, ttl, deadline)

    def unpin(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        Deadline.after(timeout)
        with self.tiered.index.changed:
            return self.tiered.pins.unpin(self.namespace, chain.keys)

    def pins(self, *, timeout: float = TIMEOUT) -> list[Pin]:
        Deadline.after(timeout)
        with self.tiered.index.changed:
            return self.tiered.pins.of(self.namespace)

    def pin_quota_left(self) -> int:
        """Bytes that this namespace may still pin."""
        with self.tiered.index.changed:
            return self.tiered.pins.left(self.namespace)

    def delete(self, chain: Chain, *, timeout: float = TIMEOUT) -> int:
        with self.tiered.counters(self.namespace).timed("delete"):
            tiers = self._tiers(chain.fingerprint)
            return removal.delete(self.tiered, self.namespace, chain, Deadline.after(timeout), tiers)

    def clear(self, tier: str = "", *, timeout: float = TIMEOUT) -> int:
        with self.tiered.counters(self.namespace).timed("clear"):
            return removal.clear(self.tiered, self.namespace, tier, Deadline.after(timeout), self._tiers(b""))

    def stats(self, *, timeout: float = TIMEOUT) -> list[Figure]:
        return figures.figures(self, Deadline.after(timeout))

    @property
    def puts_open(self) -> int:
        """How many puts of this namespace are open."""
        return len(self.puts)

    def close(self) -> None:
        """Aborts this namespace's open puts; the tiers belong to the `TieredStore`."""
        self.puts.abort_all()

    def _tiers(self, fingerprint: bytes) -> Sequence[ColdTier]:
        return self.tiered.lower if self.alone else self.tiered.reach(fingerprint)

    def _grant(
        self,
        chain: Chain,
        ttl: float,
        deadline: Deadline,
        wait: float = 0.0,
        over: Callable[[], bool] | None = None,
        show: Show | None = None,
        name: bytes = b"",
    ) -> Holding:
        tiers = self._tiers(chain.fingerprint)
        return grant(self.tiered, self.namespace, chain, ttl, deadline, tiers, wait, over, show, name)

    def _holding(self, lease_id: bytes) -> Holding:
        self.tiered.leases.expire()
        holding = self.tiered.leases.get(lease_id, self.namespace)
        if holding is None:
            raise LeaseExpired("the lease is unknown, released, or its time is over; take a new one")
        return holding

    def _lease(self, holding: Holding) -> Lease:
        here = self.tiered.settings.node
        runs = runs_at([(block.tier, block.node or here) for block in holding.blocks])
        return Lease(holding.id, len(holding.blocks), max(0.0, holding.ends - time.monotonic()), runs)
