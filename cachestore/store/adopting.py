"""The plane table of a block that a writer in another process laid: how it is handed over, and whether it is sound.

It stands at the front of the slot, where the header comes when the block is sealed. Only that memory is shared, so
nothing in it is believed: the table is copied once, and every row of the copy is checked before it is used.
"""

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, PlaneId
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.plane_table import PLACES, TABLE, places_of, remembered
from cachestore.seal import ALIGN, MOST_EXPANSION, aligned


def leave_table(slot: Buffer, table: NDArray[np.void]) -> None:
    """Puts the table where `read_table` finds it."""
    np.copyto(slot[: table.nbytes], table.view(np.uint8))


def read_table(slot: Buffer, planes: int) -> NDArray[np.void]:
    """A copy of the table of so many planes that a writer left in its slot."""
    return slot[: planes * TABLE.itemsize].copy().view(TABLE)


def payload_end(table: NDArray[np.void], blank: NDArray[np.void], room: int) -> int:
    """Where the payload ends that `table` describes, in `room` bytes; 0 if it is not sound.

    It has to be about the planes of `blank`, a table of nothing stored yet.
    """
    raw = table["codec"] == RAW
    if (table["stored_checksum"] != table["raw_checksum"])[raw].any():
        return 0
    return _end(places_of(table), (places_of(blank), room))


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
