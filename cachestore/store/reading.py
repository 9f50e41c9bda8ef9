"""Reading leased blocks: first in sealed form, then decoded and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from cachestore.block import Block, Buffer, Part
from cachestore.codecs.planes import decode_plane
from cachestore.deadline import Deadline
from cachestore.index import Name
from cachestore.seal import SHORT, CorruptBlock, Header
from cachestore.store.base import Lease, Loaded
from cachestore.store.inspection import opened
from cachestore.store.leases import Held, Holding
from cachestore.tiers.base import Found

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

FIRST_FETCH = 8
"""Blocks fetched from a cold tier before their size is known."""


def _nothing() -> None:
    """What to check after copying from memory that is the reader's own."""


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """One block as it is stored. Call `check` after copying from `payload`: CorruptBlock if it was reused meanwhile."""

    index: int
    tier: str
    header: Header
    packed: bytes
    payload: Buffer
    check: Callable[[], None]


@dataclass(eq=False)
class SealedReading:
    """The sealed blocks of a lease, in order, ending at the first that cannot be had. Ending it releases nothing."""

    tiered: TieredStore
    holding: Holding
    lease: Lease
    part: Part
    deadline: Deadline
    count: int
    _fetched: dict[bytes, Found] = field(default_factory=dict)
    _fetch: int = FIRST_FETCH
    _as_of: int = 0
    _cold: Buffer | None = None
    _rejected: bool = False

    def __iter__(self) -> Iterator[SealedBlock]:
        index = 0
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
                self.tiered.promote(name, block.header, self._cold, block.tier, self._as_of)
            index += 1

    def close(self) -> None:
        """Forgets what was fetched ahead."""
        self._fetched.clear()

    def reject(self, block: SealedBlock, reason: str) -> None:
        """The block just handed out is corrupt: its copy is dropped, and the next tier that has it is tried."""
        self._drop(block.index, reason)
        self._rejected = True

    def _open(self, index: int) -> SealedBlock | None:
        held = self.holding.blocks[index]
        self._cold = None
        while not self.holding.over:
            try:
                return self._from_memory(index, held) if held.entry is not None else self._from_cold(index, held)
            except CorruptBlock as corrupt:
                self._drop(index, corrupt.reason)
        return None

    def _from_memory(self, index: int, held: Held) -> SealedBlock | None:
        entry = held.entry
        if entry is None:
            return None
        slot = entry.slot
        data = slot.bytes
        header = opened(data, entry.name, self.holding.fingerprint)
        slot.check()
        return SealedBlock(index, held.tier, header, header.packed, data[header.size :], slot.check)

    def _from_cold(self, index: int, held: Held) -> SealedBlock | None:
        if not held.tier:
            return None
        if held.key not in self._fetched:
            self._fetch_from(index, held.tier)
        data = self._fetched.pop(held.key)
        if data is None:
            return None
        if isinstance(data, CorruptBlock):
            raise data
        name = Name(self.holding.namespace, held.key)
        header = opened(data, name, self.holding.fingerprint)
        self._fetch = max(1, self.tiered.settings.fetch_bytes // data.nbytes)
        self._cold = data
        return SealedBlock(index, held.tier, header, header.packed, data[header.size :], _nothing)

    def _fetch_from(self, index: int, tier: str) -> None:
        keys = []
        for held in self.holding.blocks[index : min(self.count, index + self._fetch)]:
            if held.entry is not None or held.tier != tier:
                break
            keys.append(held.key)
        cold = next(cold for cold in self.tiered.cold if cold.name == tier)
        self._as_of = self.tiered.removals(self.holding.namespace)
        self._fetched.update(zip(keys, cold.get_many(self.holding.namespace, keys, self.deadline), strict=True))

    def _drop(self, index: int, reason: str) -> None:
        """Drops the copy of a block that was found corrupt, and says in `held` where to look next."""
        held = self.holding.blocks[index]
        with self.tiered.index.changed:
            if self.holding.over:
                return  # nothing protected the copy any more, and the block is counted as expired
            found_in = held.tier
            self.holding.counters.add("corruptions", tier=found_in, reason=reason)
            if held.entry is None:
                held.tier = ""
            else:
                self.tiered.forget(held.entry, "corrupt")
                self.tiered.index.leave(held.entry)
                held.tier = min(held.entry.cold, default="")
                held.entry = None
            if not held.tier:
                self.holding.settle(held, "corrupt")
        for cold in self.tiered.cold:
            if cold.name == found_in:
                cold.delete_many(self.holding.namespace, [held.key], self.deadline)


@dataclass(eq=False)
class LocalReading:
    """The verified blocks of one read in this process; follows `cachestore.store.base.Reading`."""

    sealed: SealedReading
    _used: set[int] = field(default_factory=set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Loaded]:
        for sealed in self.sealed:
            try:
                block = decoded(sealed.header, sealed.payload, self.sealed.part)
                sealed.check()
            except CorruptBlock as corrupt:
                self.sealed.reject(sealed, corrupt.reason)
                continue
            if self.sealed.holding.over:
                return
            self._used.add(sealed.index)
            yield Loaded(block, sealed.tier)

    def close(self) -> None:
        """Settles every block and ends the lease. Closing twice is allowed."""
        self.sealed.close()
        tiered, holding = self.sealed.tiered, self.sealed.holding
        with tiered.index.changed:
            used = [held.key for index, held in enumerate(holding.blocks) if index in self._used]
            tiered.index.touch(holding.namespace, used)
            for index, held in enumerate(holding.blocks):
                holding.settle(held, "hits" if index in self._used else "misses")
            tiered.leases.end(holding)


def decoded(header: Header, payload: Buffer, part: Part) -> Block:
    """The planes of `part`, decoded into memory of their own and verified; CorruptBlock if one does not hold."""
    chosen = header.select(part)
    planes, rows = header.planes(chosen), header.stored(chosen)
    whole: Buffer = np.empty(sum(plane.raw_bytes for plane in planes), dtype=np.uint8)
    data, position = [], 0
    for plane, row in zip(planes, rows, strict=True):
        out = whole[position : position + plane.raw_bytes]
        decode_plane(plane, row, payload[row.offset : row.offset + row.stored_bytes], out)
        data.append(out)
        position += plane.raw_bytes
    return Block(header.key, header.token_count, planes, data, bool(header.flags & SHORT))
