"""How a block is laid into its slot: its planes one behind the other, then the header in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs.base import Encoded
from cachestore.codecs.planes import Piece, copy_planes, pieces_of, slices, starts
from cachestore.index import Entry
from cachestore.plane_table import Stored, table_of
from cachestore.seal import DURABLE, OPAQUE, PARENT_BYTES, SHORT, Header, aligned, checksums, header_bytes
from cachestore.store.adopting import payload_end, read_table
from cachestore.store.base import BlockPlan
from cachestore.store.checks import check_write, is_flat
from cachestore.tiers.slab import Slot


class Run(NamedTuple):
    """Raw planes that lie one behind the other, and how each comes to where a plane may start."""

    planes: range
    packed: tuple[slice, ...]
    offsets: NDArray[np.uint64]
    nbytes: int
    pieces: tuple[Piece, ...]


class Layout:
    """What is the same for all blocks of a put that have these planes, worked out once."""

    def __init__(self, planes: tuple[PlaneId, ...]) -> None:
        self.planes = planes
        self.start = header_bytes(len(planes))
        self.nbytes = self.start + sum(aligned(plane.raw_bytes) for plane in planes)
        self.table = table_of(planes)
        self._runs: dict[tuple[int, int], Run] = {}

    def run(self, block: int, first: int, data: Buffer) -> Run:
        """The planes of block `block` that `data` is, from plane `first` on; InvalidArgument if it is no whole ones."""
        known = self._runs.get((first, data.nbytes)) if is_flat(data) else None
        if known is None:
            planes = check_write(self.planes, block, first, data)
            sizes = [self.planes[number].raw_bytes for number in planes]
            padded = [aligned(size) for size in sizes]
            offsets, packed = starts(padded), slices(starts(sizes), sizes)
            pieces = pieces_of(packed, slices(offsets, sizes))
            known = Run(planes, packed, np.array(offsets, dtype="<u8"), sum(padded), pieces)
            self._runs[first, data.nbytes] = known
        return known


class Arrival(NamedTuple):
    """Planes in their stored form that somebody else lays into a slot: the memory for them, neighbours in one piece."""

    planes: range
    places: tuple[slice, ...]
    memory: tuple[Buffer, ...]


class Laying:
    """The planes of one block, appended in the order in which they come to the `payload` of its slot.

    `written` has the planes that came, `end` is where the next one goes. So many arrivals are `arriving` still.
    """

    def __init__(self, layout: Layout, payload: Buffer) -> None:
        self.layout = layout
        self.written: set[int] = set()
        self.end = 0
        self.arriving = 0
        self._payload = payload
        self._table = layout.table.copy()
        # raw planes, where they start, and their checksums: into the table with the others when that is asked for
        self._runs: list[tuple[Run, int, list[int]]] = []

    def append_run(self, run: Run, data: Buffer) -> None:
        """Raw planes, as they are."""
        start = self.end
        sums = copy_planes(data, self._payload[start:], run.pieces)
        self._runs.append((run, start, sums))
        self.end = start + run.nbytes
        self.written.update(run.planes)

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
        self.written.add(plane)
        return target

    def expect(self, planes: range, sizes: Sequence[int]) -> Arrival:
        """Takes places for planes of these stored sizes, which somebody else fills; nothing else will be laid there."""
        offsets = [self.end + start for start in starts([aligned(size) for size in sizes])]
        places = slices(offsets, sizes)
        pieces: list[slice] = []
        for place in places:
            if pieces and pieces[-1].stop == place.start:
                pieces[-1] = slice(pieces[-1].start, place.stop)
            else:
                pieces.append(place)
        self.end = aligned(places[-1].stop)
        self.written.update(planes)
        self.arriving += 1
        return Arrival(planes, places, tuple(self._payload[piece] for piece in pieces))

    def holds(self, arrival: Arrival, stored: NDArray[np.void]) -> bool:
        """Whether what arrived has the checksums of these rows."""
        return checksums(self._payload, arrival.places) == stored["stored_checksum"].tolist()

    def arrived(self, arrival: Arrival, stored: NDArray[np.void]) -> None:
        """The planes are there, as these rows say."""
        rows = self._table[arrival.planes.start : arrival.planes.stop]
        for name in ("codec", "stored_bytes", "stored_checksum", "raw_checksum"):
            rows[name] = stored[name]
        rows["offset"] = [place.start for place in arrival.places]
        self.arriving -= 1

    def table(self) -> NDArray[np.void]:
        """The plane table; of planes that did not come, nothing is stored."""
        for run, start, sums in self._runs:
            rows = self._table[run.planes.start : run.planes.stop]
            rows["offset"] = run.offsets + start
            rows["stored_bytes"] = rows["raw_bytes"]
            rows["stored_checksum"] = rows["raw_checksum"] = np.array(sums, dtype="<u8")
        self._runs.clear()
        return self._table


class OpenBlock(Laying):
    """One block that is being written into the slot of its entry, then sealed.

    Whoever calls sees to it that the slot is not given to others meanwhile. `failed` says that one of the planes was
    not what its sender meant.
    """

    def __init__(self, entry: Entry, plan: BlockPlan, layout: Layout) -> None:
        super().__init__(layout, entry.slot.bytes[layout.start :])
        self.entry = entry
        self.plan = plan
        self.failed = False
        self.sealed = False

    @property
    def whole(self) -> bool:
        """Whether every plane came, and as it was meant."""
        return not self.failed and not self.arriving and len(self.written) == len(self.layout.planes)

    @property
    def nbytes(self) -> int:
        """Bytes of its slot that are taken."""
        return self.layout.start + self.end

    def adopt(self) -> None:
        """All planes were laid by a writer elsewhere, who left their table at the front of the slot."""
        table = read_table(self.entry.slot.bytes, len(self.layout.planes))
        end = payload_end(table, self.layout.table, self._payload.nbytes)
        self.failed |= not end
        self._table, self.end, self.written = table, end, set(range(len(table)))

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

    def seal(self, writer: bytes, sequence: int, *, durable: bool, expires: int) -> None:
        """Puts the header in front of a whole block; `expires` in milliseconds since 1970, 0 for never."""
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
