"""Which ranges of a payload a part needs. Both ends compute it from the same header, so it is never sent."""

from cachestore.block import Part
from cachestore.seal import ALIGN, Header


def ranges(header: Header, part: Part) -> list[tuple[int, int]]:
    """Start and end of the ranges that cover the part's planes, in order; neighbours become one range.

    Planes that are apart by no more than their alignment count as neighbours.
    """
    table = header.table[header.select(part)]
    places = sorted(zip(table["offset"].tolist(), (table["offset"] + table["stored_bytes"]).tolist(), strict=True))
    merged: list[tuple[int, int]] = []
    for start, end in places:
        if merged and start - merged[-1][1] < ALIGN:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
