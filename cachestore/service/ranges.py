"""Which ranges of a payload a part needs. Both ends compute it from the same header, so it is never sent."""

import numpy as np

from cachestore.block import Part
from cachestore.plane_table import PLACES, remembered, selected
from cachestore.seal import ALIGN, Header


def ranges(header: Header, part: Part) -> list[tuple[int, int]]:
    """Start and end of the ranges that cover the part's planes, in order; neighbours become one range.

    Planes that are apart by no more than their alignment count as neighbours.
    """
    return _ranges(header.places, part)


@remembered
def _ranges(places: bytes, part: Part) -> list[tuple[int, int]]:
    table = np.frombuffer(places, dtype=PLACES)[list(selected(places, part))]
    ends = table["offset"] + table["stored_bytes"]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(zip(table["offset"].tolist(), ends.tolist(), strict=True)):
        if merged and start - merged[-1][1] < ALIGN:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
