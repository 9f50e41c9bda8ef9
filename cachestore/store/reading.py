"""Reading leased blocks in sealed form, from whichever tier has them, up to the first that cannot be had."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import dropwhile, islice, takewhile
from typing import TYPE_CHECKING, NamedTuple

from cachestore.block import Buffer, Part
from cachestore.deadline import Deadline
from cachestore.index import Name
from cachestore.seal import CorruptBlock, Header
from cachestore.store.base import Lease
from cachestore.store.copying import MOVE_SECONDS
from cachestore.store.elsewhere import Borrowed, Lent
from cachestore.store.inspection import opened
from cachestore.store.leases import Held, Holding
from cachestore.store.promotion import Arrival
from cachestore.store.repairing import discard
from cachestore.store.unreadable import look
from cachestore.tiers.base import ColdTier, Found

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

LOOK_AHEAD = 8
"""Headers in memory that are parsed in one go: between two blocks' bytes no cache would still have what that takes."""

LAYOUT = "layout"
"""Why a block is no block to a reader that expected other planes; to others it may be one."""


log = logging.getLogger(__name__)


def _nothing() -> None:
    """What to check after copying from memory that is the reader's own."""


class SealedBlock(NamedTuple):
    """One block as it is stored. Call `check` after copying from `payload`: CorruptBlock if it was reused meanwhile.

    `own` says that the payload is memory of the reader's, which it may hand on.
    """

    number: int
    tier: str
    header: Header
    packed: bytes
    payload: Buffer
    check: Callable[[], None]
    own: bool


@dataclass(eq=False)
class SealedReading:
    """The sealed blocks of a lease, in order, ending at the first that cannot be had. Ending it releases nothing."""

    tiered: TieredStore
    holding: Holding
    lease: Lease
    part: Part
    deadline: Deadline
    count: int
    first: int = 0
    _ahead: dict[int, SealedBlock] = field(default_factory=dict)
    _fetched: dict[bytes, tuple[Found, int]] = field(default_factory=dict)
    """What was fetched ahead, and what `removals` said before that."""
    _as_of: int = 0
    _lent: Lent | None = None
    _cold: Buffer | None = None
    _rejected: bool = False

    def __iter__(self) -> Iterator[SealedBlock]:
        index = self.first
        while index < self.count and self.deadline.remaining():
            block = self._open(index)
            if block is None:
                return
            yield block
            if self._rejected:
                self._rejected = False
                continue
            if self._cold is not None:
                # only now: what its reader rejects must not come back as a copy in memory
                name = Name(self.holding.namespace, block.header.key)
                parent = self.holding.blocks[index - 1].key if index else None
                after = self._copied_after(block.tier)
                arrival = Arrival(name, parent, block.header, self._cold, block.tier, self._as_of, after)
                self.tiered.promotion.promote(arrival)
            index += 1

    def close(self) -> None:
        """Forgets what was fetched ahead, and ends what other nodes send."""
        self._fetched.clear()
        self._give_back()

    def reject(self, block: SealedBlock, reason: str) -> None:
        """The block just handed out is corrupt: its copy is dropped, and the next tier that has it is tried."""
        self._drop(block.number, reason)
        self._rejected = True

    def refuse(self, block: SealedBlock) -> None:
        """The block just handed out is not what its reader takes it for: a miss. Its copy holds, and stays."""
        with self.tiered.index.changed:
            if not self.holding.over:
                self.holding.counters.add("corruptions", tier=block.tier, reason=LAYOUT)
                self.holding.settle([(self.holding.blocks[block.number], "corrupt")])

    def _open(self, index: int) -> SealedBlock | None:
        held = self.holding.blocks[index]
        self._cold = None
        while not self.holding.over:
            try:
                return self._from_memory(index) if held.entry is not None else self._from_cold(index, held)
            except CorruptBlock as corrupt:
                self._drop(index, corrupt.reason)
        return None

    def _from_memory(self, index: int) -> SealedBlock:
        if index not in self._ahead:
            self._ahead = {index: self._in_memory(index)}
            for further in range(index + 1, min(index + LOOK_AHEAD, self.count)):
                if self.holding.blocks[further].entry is None:
                    break
                try:
                    self._ahead[further] = self._in_memory(further)
                except CorruptBlock:
                    break  # found again when it is its turn, if anybody reads so far
        return self._ahead.pop(index)

    def _in_memory(self, index: int) -> SealedBlock:
        held = self.holding.blocks[index]
        assert held.entry is not None
        slot = held.entry.slot
        data = slot.bytes
        header = opened(data, held.entry.name, self.holding.fingerprint)
        slot.check()
        return SealedBlock(index, held.tier, header, header.packed, data[len(header.packed) :], slot.check, False)

    def _from_cold(self, index: int, held: Held) -> SealedBlock | None:
        if not held.tier:
            return None
        if held.key not in self._fetched:
            on_its_way = self._lent is not None and self._lent.at == index
            if not on_its_way and self._came_up(held):
                return self._from_memory(index)
            self._fetch_from(index, held.tier)
        data, self._as_of = self._fetched.pop(held.key)
        if data is None:
            tier = self._tier(held.tier)
            if isinstance(tier, Borrowed) and self._found_behind(index, tier):
                return self._from_cold(index, held)
            if tier.ledger is not None and tier.healthy:
                self._look_at_those_behind(index, tier)
            return None
        if isinstance(data, CorruptBlock):
            raise data
        name = Name(self.holding.namespace, held.key)
        header = opened(data, name, self.holding.fingerprint, self.tiered.memory.largest())
        self.tiered.batches.saw(self.holding.namespace, self.holding.fingerprint, data.nbytes)
        self._cold = data
        return SealedBlock(index, held.tier, header, header.packed, data[header.size :], _nothing, True)

    def _tier(self, name: str) -> ColdTier:
        return next(tier for tier in self.holding.tiers if tier.name == name)

    def _copied_after(self, name: str) -> int:
        tier = self._tier(name)
        return tier.copy_after if isinstance(tier, Borrowed) else self.tiered.settings.promote_after

    def _found_behind(self, index: int, lost: ColdTier) -> bool:
        """Looks for a block that `lost` has not any more, and for those that were to come from there with it."""
        namespace, blocks = self.holding.namespace, self.holding.blocks
        left = [held for held in blocks[index : self.count] if held.entry is None and held.tier == lost.name]
        for tier in islice(dropwhile(lambda tier: tier.name != lost.name, self.holding.tiers), 1, None):
            readable = self.tiered.unreadable.leading(tier.name, namespace, [held.key for held in left])
            there = tier.leading(namespace, readable, self.deadline)
            for held in left[:there]:
                held.tier, held.node = tier.name, ""
                self._fetched.pop(held.key, None)
            if there:
                return True
        return False

    def _came_up(self, held: Held) -> bool:
        """Whether a block that was cold when it was leased is in memory by now; it still counts where it was."""
        with self.tiered.index.changed:
            entry = self.tiered.index.ready(self.holding.namespace, self.holding.fingerprint).get(held.key)
            if self.holding.over:
                return False
            # a prefetch may have been first
            if held.entry is None and entry is not None:
                self.tiered.index.use(entry)
                held.entry = entry
            return held.entry is not None

    def _fetch_from(self, index: int, tier: str) -> None:
        namespace, cold = self.holding.namespace, self._tier(tier)
        if isinstance(cold, Borrowed):
            self._borrow(index, cold)
            return
        most = self.tiered.batches.blocks(namespace, self.holding.fingerprint)
        keys = [self.holding.blocks[index].key]
        for held in self.holding.blocks[index + 1 : min(self.count, index + most)]:
            if held.entry is not None or held.tier != tier:
                break
            keys.append(held.key)
        as_of = self.tiered.removals(namespace)
        try:
            found = cold.get_many(namespace, keys, self.deadline)
        except MemoryError:
            log.warning("no memory to read %d blocks from tier %s", len(keys), tier)
            found = [None] * len(keys)
        self._fetched.update((key, (data, as_of)) for key, data in zip(keys, found, strict=True))

    def _borrow(self, index: int, tier: Borrowed) -> None:
        """Fetches one block that another node has, while those behind it are on their way."""
        held, namespace = self.holding.blocks[index], self.holding.namespace
        if self._lent is None or self._lent.at != index:
            self._give_back()
            rest = self.holding.blocks[index : self.count]
            alike = takewhile(lambda other: other.entry is None and other.tier == held.tier, rest)
            as_of = self.tiered.removals(namespace)
            self._lent = Lent(tier.stream(namespace, [other.key for other in alike], self.deadline), index, as_of)
        lent, data = self._lent, None
        try:
            data = lent.take()
        except MemoryError:
            log.warning("no memory to read a block from tier %s", held.tier)
        self._fetched[held.key] = data, lent.as_of
        if data is None or isinstance(data, CorruptBlock):
            self._give_back()

    def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.blocks.close()

    def _drop(self, index: int, reason: str) -> None:
        """Drops the copy of a block that was found corrupt, and says in `held` where to look next."""
        held, behind = self.holding.blocks[index], list(self.holding.tiers)
        name = Name(self.holding.namespace, held.key)
        with self.tiered.index.changed:
            if self.holding.over:
                return  # nothing protected the copy any more, and the block is counted as expired
            found_in = held.tier if held.entry is None else self.tiered.memory.name
            self.holding.counters.add("corruptions", tier=found_in, reason=reason)
            if held.entry is not None:
                # a copy that is made of it just now would be corrupt as well
                held.entry.withdrawn = True
                self.tiered.forget(held.entry, "corrupt")
                self.tiered.index.leave(held.entry)
                held.entry = None
        while found_in != self.tiered.memory.name and behind:
            tier = behind.pop(0)
            if tier.name == found_in:
                discard(self.tiered, tier, name, self.holding.fingerprint, self.deadline)
                self._look_behind(index, tier)
                break
        unreadable = self.tiered.unreadable
        there = (
            tier.name
            for tier in behind
            if not unreadable.has(tier.name, *name)
            and tier.present(name.namespace, [name.key], self.deadline) == [True]
        )
        held.tier = next(there, "")
        if not held.tier:
            with self.tiered.index.changed:
                self.holding.settle([(held, "corrupt")])

    def _look_behind(self, index: int, tier: ColdTier) -> None:
        """Looks at those behind a copy that was dropped, if it was one that cannot be read."""
        if self.tiered.unreadable.has(tier.name, self.holding.namespace, self.holding.blocks[index].key):
            self._look_at_those_behind(index, tier)

    def _look_at_those_behind(self, index: int, tier: ColdTier) -> None:
        """Finds out in the background which further copies are gone or cannot be read, lest a put counts on them."""
        tiered, blocks, namespace = self.tiered, self.holding.blocks, self.holding.namespace
        further = [held.key for held in blocks[index + 1 :] if held.entry is None and held.tier == tier.name]
        if further:
            fingerprint = self.holding.fingerprint
            tiered.mover.submit(
                lambda: look(tiered, tier, namespace, further, fingerprint, Deadline.after(MOVE_SECONDS))
            )
