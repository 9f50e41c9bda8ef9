"""Shared memory under a hard cap.

1. The cap is on slabs, so it holds for memory taken, not only for bytes in use.
2. A slab never changes its namespace. An empty one is kept for its namespace until another needs the room.
3. A slab holds a whole number of blocks as large as the one that it was made for, and grows with what its namespace
   has: little is left at its end, and a tenant of few blocks takes little from the others.
4. Where free memory is in too many pieces, `compaction` says which blocks to move together.
5. Within a namespace an owner, a writer in another process, has slabs of its own: the namespace's once it is gone.
6. Callers hold the store's lock for everything but the copying of bytes.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from cachestore.config import Bytes
from cachestore.errors import ConfigError
from cachestore.seal import MAX_PAYLOAD
from cachestore.tiers.arena import Arena, Movable, Move
from cachestore.tiers.base import Usage
from cachestore.tiers.paging import Paging
from cachestore.tiers.slab import SPAN, UNIT, WORD_BYTES, Slab, Slot, footprint

MIB = 1 << 20

GROWTH = 4
"""A further slab is as large as this part of what its namespace has."""

SLABS_EMPTIED = 16
"""One compaction tries to empty this many slabs at most: it happens under the lock of all."""

MOST_SLABS = 128
"""Slabs of the usual size in a tier of any capacity: each is two open files, its own and the mapping's."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cpu:
    """`capacity` bytes at most, taken in slabs of about `slab` bytes.

    By default (0) that is an eighth of the capacity, but at most 64 MiB or, where that is more, a 128th of it; a
    namespace's first slabs are smaller, down to a sixteenth. `huge_pages` "auto" asks for them where the system allows
    them for shared memory (`/sys/kernel/mm/transparent_hugepage/shmem_enabled`: advise, within_size or always).
    `pinned` "auto" pins every slab where this process uses a CUDA device.
    """

    capacity: Bytes
    slab: Bytes = 0
    huge_pages: Literal["auto", "never"] = "auto"
    pinned: Literal["auto", "never"] = "auto"

    def __post_init__(self) -> None:
        if not UNIT <= self.capacity < SPAN:
            raise ConfigError(
                f"tiers.cpu.capacity must be at least {UNIT} bytes and less than {SPAN >> 40} TiB, got {self.capacity}"
            )
        if not 0 <= self.slab <= self.capacity:
            raise ConfigError(f"tiers.cpu.slab must lie between 0 and the capacity, got {self.slab}")

    def start(self) -> "CpuTier":
        usual = min(max(self.capacity // 8, MIB), max(64 * MIB, self.capacity // MOST_SLABS), self.capacity)
        return CpuTier(
            self.capacity,
            self.slab or usual,
            self.slab or usual // 16,
            Paging(self.huge_pages == "auto", self.pinned == "auto"),
        )


@dataclass(eq=False)
class CpuTier:
    """The slabs of one store: of `slab_bytes` each, a namespace's first of `first_bytes` (default: as many)."""

    capacity: int
    slab_bytes: int
    first_bytes: int = 0
    paging: Paging = field(default_factory=Paging)
    name: str = "cpu"
    _arenas: dict[tuple[bytes, bytes], Arena] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _generations: Iterator[int] = field(default_factory=lambda: count(1))
    _taken: int = 0
    _closed: bool = False
    _short: bool = False
    """Whether the system gave no memory for the last slab that was asked for."""

    def largest(self) -> int:
        """Bytes of the largest block that could ever be held."""
        return min(self.capacity // UNIT * UNIT - WORD_BYTES, MAX_PAYLOAD)

    def take(self, namespace: bytes, nbytes: int, owner: bytes = b"") -> Slot | None:
        """A slot of `nbytes` for a block of `namespace`, or None if that needs others to move or to leave first."""
        return next(iter(self.take_many(namespace, nbytes, 1, owner)), None)

    def take_many(self, namespace: bytes, nbytes: int, most: int, owner: bytes = b"") -> list[Slot]:
        """Up to so many slots of one size; fewer where more need others to move or to leave first."""
        slots: list[Slot] = []
        while True:
            arena = self._arenas.get((namespace, owner))
            if arena is not None:
                slots += arena.take_many(nbytes, most - len(slots))
            if len(slots) == most or not self._grow(namespace, footprint(nbytes), owner):
                return slots

    def shrink(self, slot: Slot, nbytes: int) -> None:
        """Gives back what a slot has beyond `nbytes`. Its place may change: only its writer may know it."""
        if not self._closed:
            self._arena_of(slot.slab).shrink(slot, nbytes)

    def give(self, slot: Slot) -> None:
        """Takes a slot back. Its generation ends before its memory can be given out again."""
        # who is late finds that all memory has been given up
        if not self._closed:
            self._arena_of(slot.slab).give(slot)

    def disown(self, namespace: bytes, owner: bytes) -> None:
        """The slabs of an owner that is gone become its namespace's, those without a slot are given up."""
        arena = self._arenas.pop((namespace, owner), None)
        if arena is None:
            return
        for slab in [slab for slab in arena.slabs.values() if not slab.used]:
            arena.remove(slab)
            self._taken -= slab.size
        if arena.slabs:
            self._arenas.setdefault((namespace, b""), Arena(self._generations)).inherit(arena)

    def compaction(self, namespace: bytes, nbytes: int, movable: Movable, owner: bytes = b"") -> list[Move] | None:
        """The moves after which `take` of the same finds room; None if moving blocks cannot make any.

        They clear a range within the slabs that `take` looks in, or else empty whole slabs of any namespace, the
        cheapest first; no more bytes move than are asked for, or than a slab has. Only slots that have a key, and
        that `movable` allows, are moved.

        The new slots are taken already: for each move, call `copy` (the lock need not be held, but nobody may write
        to or give back the old slot meanwhile), then hand the block over to the new slot and `give` back the old one,
        or, where that turns out not to be possible, `give` back the new one. Somebody else may take the room first.
        """
        need = footprint(nbytes)
        arena = self._arenas.get((namespace, owner))
        moves = arena.clear(need, movable) if arena is not None else None
        return moves if moves is not None else self._emptied(need, movable)

    @property
    def taken(self) -> int:
        """Bytes of all slabs: never above the capacity."""
        return self._taken

    def usage(self) -> Usage:
        """Bytes given out in slots."""
        return Usage(sum(slab.used for slab in self._slabs()), self.capacity)

    def slabs(self, namespace: bytes) -> list[Slab]:
        """The slabs of one namespace, whoever owns them."""
        return [slab for slab in self._slabs() if slab.namespace == namespace]

    def close(self) -> None:
        """Gives up all memory; none is given out again. Closing twice is allowed."""
        self._closed = True
        for slab in self._slabs():
            slab.close()
        self._arenas.clear()
        self._taken = 0

    def _arena_of(self, slab: Slab) -> Arena:
        return self._arenas[slab.namespace, slab.owner]

    def _slabs(self) -> list[Slab]:
        return [slab for arena in self._arenas.values() for slab in arena.slabs.values()]

    def _grow(self, namespace: bytes, need: int, owner: bytes) -> bool:
        """One more slab for an owner in a namespace, with room for `need`; False if the cap or the system says no."""
        usual = min(self.slab_bytes, max(self.first_bytes or self.slab_bytes, self._held(namespace, owner) // GROWTH))
        size = max(1, usual // need) * need
        self._drop_empty(size)
        size = min(size, (self.capacity - self._taken) // UNIT * UNIT)
        if size < need or self._closed:
            return False
        try:
            slab = Slab(namespace, size, next(self._numbers), self.paging, owner)
        except OSError as error:
            # said once, until there is memory again: every block asks
            if not self._short:
                log.warning("cpu tier: no slab of %d bytes (%s)", size, error.strerror)
            self._short = True
            return False
        self._short = False
        self._arenas.setdefault((namespace, owner), Arena(self._generations)).add(slab)
        self._taken += size
        return True

    def _held(self, namespace: bytes, owner: bytes) -> int:
        arena = self._arenas.get((namespace, owner))
        return sum(slab.size for slab in arena.slabs.values()) if arena is not None else 0

    def _drop_empty(self, wanted: int) -> None:
        for slab in [slab for slab in self._slabs() if not slab.used]:
            if self.capacity - self._taken >= wanted:
                return
            arena = self._arena_of(slab)
            arena.remove(slab)
            self._taken -= slab.size
            if not arena.slabs:
                del self._arenas[slab.namespace, slab.owner]

    def _emptied(self, need: int, movable: Movable) -> list[Move] | None:
        """Moves that empty slabs until there is room for `need`; None if too few can be emptied."""
        room, moves, left = self.capacity - self._taken, list[Move](), max(need, self.slab_bytes)
        spared = [slab for slab in self._slabs() if self._arena_of(slab).spares(slab)]
        for slab in sorted(spared, key=lambda slab: slab.used / slab.size)[:SLABS_EMPTIED]:
            if room >= need or slab.used > left:
                break
            used, emptied = slab.used, self._arena_of(slab).empty(slab, movable)
            if emptied is not None:
                moves += emptied
                room += slab.size
                left -= used
        for arena in self._arenas.values():
            arena.release()
        if moves and room >= need:
            return moves
        for move in moves:
            self.give(move.new)
        return None
