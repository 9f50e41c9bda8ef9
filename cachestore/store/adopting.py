"""The plane table of a block that a writer in another process lays: how it is handed over, and whether it is sound.

It stands at the front of the slot, where the header comes when the block is sealed, and tells as it grows: a row has
under `raw_bytes`, which the store knows, the number of its plane's write among all of the put, from 1 on, and 0 if the
plane is still to come; the last 8 bytes in front of the payload are the number of the block's last write. So whoever
follows the block looks there, and a writer whom nobody follows sends no word. Only that memory is shared, so nothing in
it is believed: the table is copied, and every row of the copy is checked before it is used.
"""

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, PlaneId
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.plane_table import PLACES, TABLE, places_of, remembered
from cachestore.seal import ALIGN, MOST_EXPANSION, aligned


class Front:
    """The writer's side: what is in front of the payload, which begins at `start` of its slot."""

    def __init__(self, slot: Buffer, start: int) -> None:
        self._slot = slot
        self._start = start
        self._writes: NDArray[np.uint64] | None = None

    def laid(self, planes: range, table: NDArray[np.void], write: int) -> None:
        """These planes lie where they will stay, as the block's `table` says; it was the write of this number."""
        # as bytes, since numpy copies rows field by field
        rows = table.view(np.uint8)
        if self._writes is None:
            # not before the first write: so the front comes into the processor's cache once instead of twice
            np.copyto(self._slot[: table.nbytes], rows)
            self._writes = _table(self._slot, len(table))["raw_bytes"]
            self._writes[:] = 0
        else:
            place = slice(planes.start * TABLE.itemsize, planes.stop * TABLE.itemsize)
            # without its number until it is whole: whoever looks meanwhile would take what the row says for it
            unnumbered = rows[place].copy()
            _table(unnumbered, len(planes))["raw_bytes"] = 0
            np.copyto(self._slot[place], unnumbered)
        self._writes[planes.start : planes.stop] = write
        last_write(self._slot, self._start)[0] = write


def last_write(slot: Buffer, start: int) -> NDArray[np.uint64]:
    """The number of the last write, in front of a payload that begins at `start`."""
    return slot[start - 8 : start].view("<u8")


def read_table(slot: Buffer, blank: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.uint64]]:
    """A copy of the table that a writer leaves in its slot, about the planes of `blank`; the number of each's write."""
    table = _table(slot[: blank.nbytes].copy(), len(blank))
    writes, table["raw_bytes"] = table["raw_bytes"].copy(), blank["raw_bytes"]
    return table, writes


def payload_end(table: NDArray[np.void], blank: NDArray[np.void], room: int) -> int:
    """Where the payload ends that `table` describes, in `room` bytes; 0 if it is not sound.

    It has to be about the planes of `blank`, a table of nothing stored yet.
    """
    if ((table["stored_checksum"] != table["raw_checksum"]) & (table["codec"] == RAW)).any():
        return 0
    return _end(places_of(table), (places_of(blank), room))


def _table(memory: Buffer, planes: int) -> NDArray[np.void]:
    # several times as fast as a view of a part
    return np.ndarray(planes, TABLE, memory)


@remembered
def _end(places: bytes, wanted: tuple[bytes, int]) -> int:
    blank, room = wanted
    table, meant = np.frombuffer(places, dtype=PLACES), np.frombuffer(blank, dtype=PLACES)
    if any((table[name] != meant[name]).any() for name in (*PlaneId._fields, "zero")):
        return 0
    offsets, stored, raw = table["offset"], table["stored_bytes"], table["raw_bytes"]
    # the first two so that the sums below cannot run over
    if (offsets > room).any() or (stored > raw).any() or (stored < 1).any() or (offsets % ALIGN).any():
        return 0
    if any(by_id(codec) is None for codec in set(table["codec"].tolist())):
        return 0
    if (stored != raw)[table["codec"] == RAW].any():
        return 0
    order = np.argsort(offsets)
    starts, ends = offsets[order], (offsets + stored)[order]
    if (starts[1:] < ends[:-1]).any() or ends[-1] > room or raw.sum() > MOST_EXPANSION * ends[-1]:
        return 0
    return aligned(int(ends[-1]))
