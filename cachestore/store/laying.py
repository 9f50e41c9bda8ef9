"""How a block is laid into its slot: its planes one behind the other, then the header in front of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs.base import RAW, Encoded
from cachestore.codecs.planes import Piece, copy_planes, pieces_of, slices, starts
from cachestore.index import Entry
from cachestore.plane_table import MOST_PLANES_KNOWN, Stored, table_of
from cachestore.seal import DURABLE, OPAQUE, PARENT_BYTES, SHORT, Header, aligned, checksums, header_bytes
from cachestore.store.adopting import last_write, payload_end, read_table
from cachestore.store.arriving import Arrival
from cachestore.store.base import BlockPlan
from cachestore.store.checks import check_write, is_flat
from cachestore.tiers.slab import Slot

KNOWN_LAYOUTS = 32
"""How many layouts are remembered."""

MOST_RUNS = 64
"""Runs of planes that a layout remembers: writers use the same few for every block."""


class Run(NamedTuple):
    """Raw planes that lie one behind the other, and how each comes to where a plane may start."""

    planes: range
    packed: tuple[slice, ...]
    offsets: NDArray[np.uint64]
    nbytes: int
    pieces: tuple[Piece, ...]


class LayoutPart(NamedTuple):
    """Some planes of a layout as a layout of their own, and their numbers in the whole one."""

    layout: Layout
    numbers: NDArray[np.intp]


class Layout:
    """What is the same for all blocks that have these planes, worked out once. Threads may share it."""

    def __init__(self, planes: tuple[PlaneId, ...]) -> None:
        self.planes = planes
        self.start = header_bytes(len(planes))
        self.nbytes = self.start + sum(aligned(plane.raw_bytes) for plane in planes)
        self.table = table_of(planes)
        self.unseen = np.zeros(len(planes), dtype=bool)
        self.all = frozenset(range(len(planes)))
        self._runs: dict[tuple[int, int], Run] = {}
        self._of: dict[range, Run] = {}
        self._parts: dict[range, LayoutPart] = {}

    def run(self, block: int, first: int, data: Buffer) -> Run:
        """The planes of block `block` that `data` is, from plane `first` on; InvalidArgument if it is no whole ones."""
        known = self._runs.get((first, data.nbytes)) if is_flat(data) else None
        if known is None:
            if len(self._runs) >= MOST_RUNS:
                self._runs.clear()
            known = self._runs[first, data.nbytes] = self.run_of(check_write(self.planes, block, first, data))
        return known

    def run_of(self, planes: range) -> Run:
        """These planes, one behind the other."""
        known = self._of.get(planes)
        if known is None:
            sizes = [self.planes[number].raw_bytes for number in planes]
            padded = [aligned(size) for size in sizes]
            offsets, packed = starts(padded), slices(starts(sizes), sizes)
            pieces = pieces_of(packed, slices(offsets, sizes))
            known = Run(planes, packed, np.array(offsets, dtype="<u8"), sum(padded), pieces)
            if len(self._of) >= MOST_RUNS:
                self._of.clear()
            self._of[planes] = known
        return known

    def part(self, groups: range) -> LayoutPart:
        """The planes of these head groups."""
        known = self._parts.get(groups)
        if known is None:
            numbers = [number for number, plane in enumerate(self.planes) if plane.group in groups]
            layout = layout_of(tuple(self.planes[number] for number in numbers))
            if len(self._parts) >= MOST_RUNS:
                self._parts.clear()
            known = self._parts[groups] = LayoutPart(layout, np.array(numbers, dtype=np.intp))
        return known


def layout_of(planes: tuple[PlaneId, ...]) -> Layout:
    """The layout of blocks with these planes; most puts of a spec have the same."""
    # a client may name any number of planes: what is remembered must stay small
    return (_remembered if len(planes) <= MOST_PLANES_KNOWN else Layout)(planes)


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _remembered(planes: tuple[PlaneId, ...]) -> Layout:
    return Layout(planes)


class Laying:
    """The planes of one block, appended in the order in which they come to the `payload` of its slot.

    `written` has the planes that came, `end` is where the next one goes. So many arrivals are `arriving` still.
    """

    def __init__(self, layout: Layout, payload: Callable[[], Buffer]) -> None:
        self.layout = layout
        self.written: set[int] | frozenset[int] = set()
        self.end = 0
        self.arriving = 0
        self._found = payload
        # raw planes by the first, where they start, and their checksums: into the table when that is asked for
        self._runs: dict[int, tuple[Run, int, list[int]]] = {}

    # of a block that a writer elsewhere lays neither is asked for
    @cached_property
    def _payload(self) -> Buffer:
        return self._found()

    @cached_property
    def _table(self) -> NDArray[np.void]:
        return self.layout.table.copy()

    def append_run(self, run: Run, data: Buffer) -> None:
        """Raw planes, as they are."""
        start = self.end
        sums = copy_planes(data, self._payload[start:], run.pieces)
        self._runs[run.planes.start] = run, start, sums
        self.end = start + run.nbytes
        self.written |= set(run.planes)

    def append(self, plane: int, encoded: Encoded) -> Buffer:
        """One plane in its stored form; its bytes in the slot."""
        codec, stored, _, stored_checksum, raw_checksum = encoded
        offset, size = self.end, stored.nbytes
        target = self._payload[offset : offset + size]
        np.copyto(target, stored)
        self.end = aligned(offset + size)
        row = Stored(codec, offset, size, stored_checksum, raw_checksum)
        for name, value in zip(Stored._fields, row, strict=True):
            self._table[name][plane] = value
        self.written |= {plane}
        return target

    def expect(self, planes: range, stored: NDArray[np.void] | None) -> Arrival:
        """Takes places for planes that somebody else lays; `stored` has the codec and stored bytes of each, None: raw.

        Nothing else will be laid there.
        """
        if stored is None:
            run = self.layout.run_of(planes)
            offsets, sizes, nbytes, pieces = run.offsets, self.layout.table["raw_bytes"], run.nbytes, run.pieces
            sizes = sizes[planes.start : planes.stop]
        else:
            lengths = stored["stored_bytes"].tolist()
            padded = [aligned(size) for size in lengths]
            places = slices(starts(padded), lengths)
            offsets, sizes, nbytes = np.array(starts(padded), dtype="<u8"), stored["stored_bytes"], sum(padded)
            pieces = pieces_of(places, places)
        rows = self._table[planes.start : planes.stop]
        rows["codec"] = RAW if stored is None else stored["codec"]
        rows["offset"] = offsets + self.end
        rows["stored_bytes"] = sizes
        arrival = Arrival(self._payload[self.end : self.end + nbytes], pieces, rows)
        self.end += nbytes
        self.written |= set(planes)
        self.arriving += 1
        return arrival

    def stored(self, planes: range) -> list[Stored]:
        """How and where planes are stored that came at once. Another thread may ask for what the writer told it of."""
        known = self._runs.get(planes.start)
        if known is None:
            rows = self._table[planes.start : planes.stop]
            return list(map(Stored._make, zip(*(rows[name].tolist() for name in Stored._fields), strict=True)))
        run, start, sums = known
        sizes = [self.layout.planes[number].raw_bytes for number in planes]
        places = zip((run.offsets + start).tolist(), sizes, sums, sums, strict=True)
        return [Stored(RAW, *place) for place in places]

    def table(self) -> NDArray[np.void]:
        """The plane table; of planes that did not come, nothing is stored."""
        for run, start, sums in self._runs.values():
            rows = self._table[run.planes.start : run.planes.stop]
            rows["offset"] = run.offsets + start
            rows["stored_bytes"] = rows["raw_bytes"]
            rows["stored_checksum"] = rows["raw_checksum"] = np.array(sums, dtype="<u8")
        self._runs.clear()
        return self._table


class OpenBlock(Laying):
    """One block that is being written into the slot of its entry, then sealed.

    Whoever calls sees to it that the slot is not given to others meanwhile. `failed` says that one of the planes was
    not what its sender meant; `seen` has the planes that a writer elsewhere was seen to have laid.
    """

    def __init__(self, entry: Entry, plan: BlockPlan, layout: Layout) -> None:
        super().__init__(layout, lambda: entry.slot.bytes[layout.start :])
        self.entry = entry
        self.plan = plan
        self.failed = False
        self.sealed = False
        self.lent = False
        self.seen = layout.unseen
        self._looked_at = 0

    @property
    def whole(self) -> bool:
        """Whether every plane came, and as it was meant."""
        return not self.failed and not self.arriving and len(self.written) == len(self.layout.planes)

    @property
    def nbytes(self) -> int:
        """Bytes of its slot that are taken."""
        return self.layout.start + self.end

    @property
    def laid(self) -> int:
        """The number of the last write of a writer elsewhere, zero if it has laid none of its planes."""
        return int(last_write(self.entry.slot.bytes, self.layout.start)[0]) if self.lent else 0

    def adopt(self) -> None:
        """All planes were laid by a writer elsewhere, who left their table at the front of the slot."""
        table, writes = read_table(self.entry.slot.bytes, self.layout.table)
        end = payload_end(table, self.layout.table, self._payload.nbytes)
        if not self.laid or not writes.all() or not end:
            self.failed = True
            return
        self.take_over(table, end)

    def take_over(self, table: NDArray[np.void], end: int) -> None:
        """Its planes are stored as `table` says, up to `end`, which was found to be sound."""
        self._table, self.end, self.written = table, end, self.layout.all

    def look(self) -> list[tuple[int, range]]:
        """What a writer elsewhere has laid since the last look: the number of each write, and planes of it.

        It ends at a row that is not sound, which may not be whole yet. What counts in the end is what `adopt` finds.
        """
        if self.written or (laid := self.laid) == self._looked_at:
            return []
        self._looked_at = laid
        blank = self.layout.table
        table, writes = read_table(self.entry.slot.bytes, blank)
        found: list[tuple[int, range]] = []
        self.seen = self.seen.copy()
        for planes in _alike(np.where(self.seen, 0, writes)):
            place = slice(planes.start, planes.stop)
            if not payload_end(table[place], blank[place], self._payload.nbytes):
                break
            self._table[place] = table[place]
            self.seen[place] = True
            found.append((int(writes[planes.start]), planes))
        return found

    def move(self, slot: Slot) -> Slot:
        """The bytes are in another slot from now on; the old one."""
        old, self.entry.slot = self.entry.slot, slot
        slot.key, self._payload = old.key, slot.bytes[self.layout.start :]
        return old

    def verify(self) -> None:
        """Fails the block unless every plane is stored as the table says."""
        places = zip(self._table["offset"].tolist(), self._table["stored_bytes"].tolist(), strict=True)
        stored = [slice(at, at + size) for at, size in places]
        self.failed |= checksums(self._payload, stored) != self._table["stored_checksum"].tolist()

    def seal(self, writer: bytes, sequence: int, *, durable: bool, expires: int) -> bytes:
        """Puts the header in front of a whole block, and gives it too; `expires` in milliseconds since 1970, 0 for
        never."""
        table = self.table()
        entry, plan = self.entry, self.plan
        flags = (SHORT if plan.short else 0) | (OPAQUE if plan.planes[0].half is Half.OPAQUE else 0)
        flags |= DURABLE if durable else 0
        header = Header(
            entry.name.namespace, entry.name.key, entry.fingerprint, plan.token_count, table,
            writer, sequence, flags, self.end,
            expires=expires, parent=(entry.parent or bytes(PARENT_BYTES))[:PARENT_BYTES],
        )  # fmt: skip
        packed = header.pack()
        np.copyto(entry.slot.bytes[: len(packed)], np.frombuffer(packed, dtype=np.uint8))
        self.sealed = True
        return packed


def _alike(numbers: NDArray[np.uint64]) -> list[range]:
    """Where the same number stands several times in a row, zeros aside."""
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return [range(start, stop) for start, stop in pairwise(edges) if numbers[start]]
