"""Planes that somebody else lays into the slot of an open block: a connection that receives right into it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW
from cachestore.codecs.planes import Piece
from cachestore.seal import checksums


@dataclass(eq=False)
class Arrival:
    """Memory for planes in their stored form, in `pieces` one behind the other, and their rows of the plane table."""

    memory: Buffer
    pieces: Sequence[Piece]
    rows: NDArray[np.void]
    good: bool = False
    _sums: list[int] = field(default_factory=list)

    def fill(self, take: Callable[[Buffer], object]) -> None:
        """`take` fills the memory, piece by piece, and each is hashed while the processor's cache still has it."""
        for piece in self.pieces:
            take(self.memory[piece.target])
            self._sums += checksums(self.memory, piece.planes)

    def told(self, stored: NDArray[np.uint64], raw: NDArray[np.uint64]) -> None:
        """What the checksums are meant to be, one for each plane."""
        as_they_are = self.rows["codec"] == RAW
        self.good = self._sums == stored.tolist() and not (stored != raw)[as_they_are].any()
        self.rows["stored_checksum"], self.rows["raw_checksum"] = stored, raw


def unsound(raw_bytes: NDArray[np.uint64], stored: NDArray[np.void]) -> str:
    """Why planes of so many raw bytes cannot be stored with the codecs and bytes of these rows; empty if they can."""
    sizes, codecs = stored["stored_bytes"], stored["codec"]
    if (sizes < 1).any() or (sizes > raw_bytes).any():
        return "stored_bytes must lie in 1 .. the plane's raw bytes"
    for codec in set(codecs.tolist()):
        # only what fits into the plane table is looked up: answers are kept
        if codec > 255 or by_id(codec) is None:
            return f"codec {codec} is none that this store knows"
    as_they_are = codecs == RAW
    if (sizes[as_they_are] != raw_bytes[as_they_are]).any():
        return "a plane as it is has its raw bytes"
    return ""
