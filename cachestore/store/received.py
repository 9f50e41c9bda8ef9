"""The planes of one block that its reader has before it is published, and whether they are what was published."""

from collections.abc import Sequence

import numpy as np

from cachestore.block import Block, Buffer, Part, PlaneId, Views
from cachestore.codecs.planes import decode_plane, packing_of, slices, starts
from cachestore.plane_table import Stored
from cachestore.seal import SHORT, Header


class Received:
    """Memory for the planes of `part` of a block that has `planes`: the caller's `into` if it has that size.

    `sums` has the raw checksums of those that came, by number.
    """

    def __init__(self, planes: Sequence[PlaneId], part: Part, into: Buffer | None) -> None:
        self.part = part
        self.layout = tuple(planes)
        self.planes = {number: plane for number, plane in enumerate(planes) if part.holds(*plane[:3])}
        self.sums: dict[int, int] = {}
        sizes = [plane.raw_bytes for plane in self.planes.values()]
        self._places = dict(zip(self.planes, slices(starts(sizes), sizes), strict=True))
        fits = into is not None and into.nbytes == sum(sizes)
        self._memory = into if into is not None and fits else np.empty(sum(sizes), dtype=np.uint8)

    def take(self, plane: int, row: Stored, stored: Buffer) -> Buffer:
        """The raw bytes of a plane that its `row` describes, verified, where they belong; CorruptBlock otherwise."""
        out = self._memory[self._places[plane]]
        # until it holds: what lies there may be an earlier writer's
        self.sums.pop(plane, None)
        decode_plane(self.planes[plane], row, stored, out)
        self.sums[plane] = row.raw_checksum
        return out

    def block(self, header: Header, into: Buffer | None) -> Block | None:
        """The block published with this header, if all of its part came and lies where it is wanted; else None."""
        packing = packing_of(header.places, self.part)
        if packing.planes != tuple(self.planes.values()) or not same_sums(self.sums, header, packing.chosen):
            return None
        if into is not None and into is not self._memory:
            return None
        views = Views(self._memory, packing.packed)
        return Block(header.key, header.token_count, packing.planes, views, bool(header.flags & SHORT))


def same_sums(sums: dict[int, int], header: Header, chosen: Sequence[int]) -> bool:
    """Whether the planes at the indices `chosen` were published with these raw checksums."""
    return [sums.get(number) for number in chosen] == header.raw_checksums(chosen)
