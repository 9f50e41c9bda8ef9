"""Many blocks in one memory, each in pieces that lie anywhere in it, as engines keep their pages.

Given a buffer for each piece, what is done with each takes longer than to copy a small block. Here all places are
known as one array, checked at once, and copied from and to without anything being made for a piece.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import overload

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.errors import InvalidArgument
from cachestore.store.plan import BlockPlan

LITTLE = 128 << 10
"""Bytes that are copied in less time than giving up the interpreter lock and getting it back costs."""


class Spread(Sequence[Sequence[Buffer]]):
    """Blocks whose pieces, of `sizes` bytes, begin in `memory` at `starts`, a row for each block.

    It is a sequence of what `Into` may be, a piece for each plane.
    """

    def __init__(self, memory: Buffer, starts: NDArray[np.int64], sizes: tuple[int, ...]) -> None:
        self.memory = memory
        self.starts = starts
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Sequence[Buffer]: ...
    @overload
    def __getitem__(self, index: slice) -> "Spread": ...
    def __getitem__(self, index: int | slice) -> "Sequence[Buffer] | Spread":
        if isinstance(index, slice):
            return Spread(self.memory, self.starts[index], self.sizes)
        places = zip(self.starts[index].tolist(), self.sizes, strict=True)
        return tuple(self.memory[start : start + nbytes] for start, nbytes in places)

    def check(self, *, fillable: bool = False) -> None:
        """InvalidArgument unless all pieces lie within the memory, which is bytes, and writeable to be `fillable`."""
        memory, starts = self.memory, self.starts
        flat = memory.ndim == 1 and memory.dtype == np.uint8 and memory.flags.c_contiguous
        if not flat or (fillable and not memory.flags.writeable):
            raise InvalidArgument(
                f"blocks are spread over bytes in one piece, and are read into such as are writeable; "
                f"got {memory.dtype} of shape {memory.shape}"
            )
        if starts.ndim != 2 or starts.shape[1] != len(self.sizes) or not self.sizes:
            raise InvalidArgument(f"starts must have {len(self.sizes)} for each block, got shape {starts.shape}")
        if starts.size and (starts.min() < 0 or (starts.max(axis=0) > memory.nbytes - np.array(self.sizes)).any()):
            raise InvalidArgument(f"a piece lies beyond the {memory.nbytes} bytes of memory")

    def check_planned(self, plans: Sequence[BlockPlan]) -> None:
        """InvalidArgument unless these are the first of the blocks that are planned, whole, a piece for each plane."""
        self.check()
        if len(self) > len(plans):
            raise InvalidArgument(f"blocks: {len(plans)} are planned, got {len(self)}")
        # by identity: the blocks of a put share their planes
        for planes in {id(plan.planes): plan.planes for plan in plans[: len(self)]}.values():
            wanted = tuple(plane.raw_bytes for plane in planes)
            if wanted != self.sizes:
                raise InvalidArgument(f"a block wants {sum(wanted)} bytes, a piece for each plane; got {self.sizes}")


def moved(
    source: Buffer, froms: NDArray[np.int64], target: Buffer, tos: NDArray[np.int64], sizes: Sequence[int]
) -> NDArray[np.uint64]:
    """Copies pieces of `sizes` bytes, a row of them for each block; their checksums as they have arrived, likewise."""
    data, out, sums = source.data, target.data, list[int]()
    copied = _in_one_go if max(sizes) <= LITTLE else _unlocked
    for at, to, nbytes in zip(froms.ravel().tolist(), tos.ravel().tolist(), cycle(sizes), strict=False):
        copied(data[at : at + nbytes], piece := out[to : to + nbytes])
        sums.append(xxhash.xxh3_64_intdigest(piece))
    return np.array(sums, dtype=np.uint64).reshape(froms.shape)


def _in_one_go(source: memoryview, target: memoryview) -> None:
    target[:] = source


def _unlocked(source: memoryview, target: memoryview) -> None:
    np.copyto(np.frombuffer(target, dtype=np.uint8), np.frombuffer(source, dtype=np.uint8))
