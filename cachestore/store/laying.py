"""Where the planes of a block that is being written go in its slot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.planes import Piece, pieces_of, slices, starts
from cachestore.index import Entry
from cachestore.seal import aligned, header_bytes, table_of
from cachestore.store.base import check_write, is_flat


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


@dataclass(eq=False)
class OpenBlock:
    """One block that is being written: planes are appended in the order in which they come."""

    entry: Entry
    layout: Layout
    payload: Buffer
    table: NDArray[np.void]
    runs: list[tuple[Run, int, list[int]]] = field(default_factory=list)
    """Raw planes, where they start, and their checksums: into the table with the others when the block is sealed."""
    written: set[int] = field(default_factory=set)
    end: int = 0
    failed: bool = False
    sealed: bool = False
