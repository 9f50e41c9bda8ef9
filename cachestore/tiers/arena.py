"""The slabs of a namespace, or of one owner in it, what is free in them, and how blocks are moved together."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from typing import NamedTuple

import numpy as np

from cachestore.tiers.extents import Extents
from cachestore.tiers.slab import SPAN, UNIT, WORD_BYTES, Slab, Slot, footprint

SLABS_SEARCHED = 2
"""Ranges that are cheap to clear are looked for where most is free; further slabs rarely have a better one."""

WINDOWS_TRIED = 3
"""Of each slab, the cheapest that many: what lies in them may not fit elsewhere."""

SLIDE = 16
"""A block that was coded slides over a hole of at least this part of its size."""

Movable = Callable[[Slot], bool]


class Move(NamedTuple):
    """A block's bytes should move from `old` to `new`; both are given out, and never overlap."""

    old: Slot
    new: Slot

    def copy(self) -> None:
        """Copies the bytes, and the key. The generations stay what they are."""
        np.copyto(self.new.bytes, self.old.bytes)
        self.new.key = self.old.key


class Window(NamedTuple):
    """A range of a slab, from the end of one slot to the start of another; `live` bytes of it are given out."""

    live: int
    slots: Sequence[Slot]
    holes: Sequence[int]
    """Where the free extents within it begin, as addresses."""


@dataclass(eq=False)
class Arena:
    """Memory of one namespace and owner. `generations` numbers slots, and is the tier's."""

    generations: Iterator[int]
    slabs: dict[int, Slab] = field(default_factory=dict)
    extents: Extents = field(default_factory=lambda: Extents(UNIT))
    _held: list[tuple[int, int]] = field(default_factory=list)
    """Free extents that are kept from being given out while moves are planned."""

    def add(self, slab: Slab) -> None:
        """A new, empty slab."""
        self.slabs[slab.number] = slab
        self.extents.give(slab.base, slab.size)

    def remove(self, slab: Slab) -> None:
        """Gives up an empty slab."""
        assert not slab.slots
        del self.slabs[slab.number]
        self.extents.claim(slab.base)
        slab.close()

    def inherit(self, other: "Arena") -> None:
        """Takes over the slabs of an owner that is gone."""
        for slab in other.slabs.values():
            slab.owner = b""
            slab.protect()
        self.slabs.update(other.slabs)
        self.extents.absorb(other.extents)

    def take(self, nbytes: int) -> Slot | None:
        """A slot in the tightest place, or None if no slab has one."""
        return next(iter(self.take_many(nbytes, 1)), None)

    def take_many(self, nbytes: int, most: int) -> list[Slot]:
        """Up to so many slots of one size, as far as the slabs have them."""
        slots: list[Slot] = []
        while len(slots) < most and (row := self.extents.take_row(nbytes + WORD_BYTES, most - len(slots))):
            number, first = divmod(row.start, SPAN)
            slab, generations = self.slabs[number], list(islice(self.generations, len(row)))
            offsets = range(first, first + len(row) * row.step, row.step)
            slab.words[first // 8 : offsets.stop // 8 : row.step // 8] = generations
            given = [Slot(slab, at, nbytes, generation) for at, generation in zip(offsets, generations, strict=True)]
            slab.slots.update(zip(offsets, given, strict=True))
            slab.used += len(row) * row.step
            slots += given
        return slots

    def shrink(self, slot: Slot, nbytes: int) -> None:
        """Gives back what a slot has beyond `nbytes`, and lets it slide down over a hole before it.

        Blocks are reserved side by side at their raw size; coded, each would else leave a hole that is too small for
        anything. Only its writer may know the slot: its place changes, and its generation.
        """
        slab, old, new = slot.slab, slot.size, footprint(nbytes)
        slot.nbytes = nbytes
        if new == old:
            return
        address = slab.base + slot.offset
        hole = self.extents.before(address)
        if hole * SLIDE < new:
            self.extents.give(address + new, old - new)
        else:
            bytes_ = slot.bytes
            del slab.slots[slot.offset]
            slab.words[slot.offset // 8] = 0
            slot.offset -= self.extents.claim(address - hole)
            np.copyto(slot.bytes, bytes_)
            slot.generation = next(self.generations)
            slab.words[slot.offset // 8] = slot.generation
            slab.slots[slot.offset] = slot
            self.extents.give(address - hole + new, hole + old - new)
        slab.used -= old - new

    def give(self, slot: Slot) -> None:
        """Takes a slot back. Its generation ends before its memory can be given out again."""
        # what the word says is not asked: memory that others can reach must not decide what is free
        assert slot.live
        slot.live = False
        slab = slot.slab
        slab.words[slot.offset // 8] = 0
        del slab.slots[slot.offset]
        slab.used -= slot.size
        self.extents.give(slab.base + slot.offset, slot.size)

    def clear(self, nbytes: int, movable: Movable) -> list[Move] | None:
        """Moves, of no more bytes than that, which leave a free extent of `nbytes`; None if there are none."""
        if self.extents.free < nbytes:
            return None
        sparsest = sorted(self.slabs.values(), key=lambda slab: slab.used - slab.size)
        for slab in sparsest[:SLABS_SEARCHED]:
            for window in _windows(slab, nbytes, movable):
                if window.live > nbytes:
                    break
                if (moves := self._vacate(window)) is not None:
                    self.release()
                    return moves
        return None

    def spares(self, slab: Slab) -> bool:
        """Whether the other slabs have as much free as this one has given out."""
        return slab.used <= self.extents.free - (slab.size - slab.used)

    def empty(self, slab: Slab, movable: Movable) -> list[Move] | None:
        """Moves that empty a slab, of which nothing is given out before `release`; None if that cannot be."""
        window = next(_windows(slab, slab.size, movable), None)
        return None if window is None else self._vacate(window)

    def release(self) -> None:
        """What was cleared may be given out again."""
        for start, length in self._held:
            self.extents.give(start, length)
        self._held.clear()

    def _vacate(self, window: Window) -> list[Move] | None:
        """New slots outside of the window, which is then held, for all that lie in it; None if places are lacking."""
        held = [(start, self.extents.claim(start)) for start in window.holes]
        moves: list[Move] = []
        # the largest first: small ones still fit into what is left
        for slot in sorted(window.slots, key=lambda slot: -slot.nbytes):
            new = self.take(slot.nbytes)
            if new is None:
                break
            moves.append(Move(slot, new))
        if len(moves) == len(window.slots):
            self._held += held
            return moves
        for move in moves:
            self.give(move.new)
        for start, length in held:
            self.extents.give(start, length)
        return None


def _windows(slab: Slab, nbytes: int, movable: Movable) -> Iterator[Window]:
    """The cheapest ranges of at least `nbytes`, between two slots or an end of the slab, that may be cleared."""
    slots = [slab.slots[offset] for offset in sorted(slab.slots)]
    starts, ends, live, staying = [], [0], [0], [0]
    for slot in slots:
        size = slot.size
        starts.append(slot.offset)
        ends.append(slot.offset + size)
        live.append(live[-1] + size)
        # one without a key is nobody's block yet, or the new place of one that moves
        staying.append(staying[-1] + (not slot.key or not movable(slot)))
    starts.append(slab.size)
    ranges, last = [], 0
    for first, end in enumerate(ends):
        while last < len(slots) and starts[last] - end < nbytes:
            last += 1
        if starts[last] - end < nbytes:
            break
        if first < last and staying[last] == staying[first]:
            ranges.append((live[last] - live[first], first, last))
    for cost, first, last in nsmallest(WINDOWS_TRIED, ranges):
        gaps = zip(ends[first : last + 1], starts[first : last + 1], strict=True)
        yield Window(cost, slots[first:last], [slab.base + end for end, start in gaps if end < start])
