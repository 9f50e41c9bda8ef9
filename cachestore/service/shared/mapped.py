"""The store's memory as a client sees it: slabs that it has mapped, and where in them blocks lie."""

import mmap
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.tiers.paging import Paging
from cachestore.tiers.slab import WORD_BYTES

Numbers: TypeAlias = Sequence[int] | NDArray[np.int64] | NDArray[np.uint64]


class Mapped:
    """A slab in this process's address space, for as long as anything refers to it."""

    def __init__(self, descriptor: int, nbytes: int, *, writable: bool) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        memory = mmap.mmap(descriptor, nbytes, prot=access)
        # the store's huge pages, if it has any, are mapped as such only where that is asked for
        Paging().advise(memory)
        self.bytes: Buffer = np.frombuffer(memory, dtype=np.uint8)
        self.words = self.bytes.view(np.uint64)


class Place(NamedTuple):
    """Where one block lies."""

    slab: Mapped
    offset: int
    nbytes: int
    generation: int

    @property
    def bytes(self) -> Buffer:
        """Its memory, generation word excluded."""
        start = self.offset + WORD_BYTES
        return self.slab.bytes[start : start + self.nbytes]

    @property
    def current(self) -> bool:
        """Whether what was copied from it before this was asked is its block."""
        return int(self.slab.words[self.offset // 8]) == self.generation


class Places(Sequence[Place]):
    """Where several blocks lie: a column each of what `Place` has, since many are asked about at once.

    OverflowError for what no slab can have.
    """

    def __init__(self, slabs: Sequence[Mapped], offsets: Numbers, sizes: Numbers, generations: Numbers):
        self.slabs = slabs
        self.offsets = np.array(offsets, dtype=np.int64)
        self.sizes = np.array(sizes, dtype=np.int64)
        self.generations = np.array(generations, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.slabs)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> "Places": ...
    def __getitem__(self, index: int | slice) -> "Place | Places":
        if isinstance(index, slice):
            return Places(self.slabs[index], self.offsets[index], self.sizes[index], self.generations[index])
        numbers = (int(column[index]) for column in (self.offsets, self.sizes, self.generations))
        return Place(self.slabs[index], *numbers)

    @property
    def sound(self) -> bool:
        """Whether all of them lie within their slabs."""
        within = np.fromiter((slab.bytes.nbytes for slab in self.slabs), dtype=np.int64, count=len(self.slabs))
        ends = self.offsets + self.sizes + WORD_BYTES
        # each alone first: a sum may run over
        small = (self.offsets < within) & (self.sizes < within) & (ends <= within)
        return bool(small.all()) and not (self.offsets % 8).any()

    @property
    def alike(self) -> int:
        """How many of them, from the first on, are of one slab and one size."""
        if not self.slabs:
            return 0
        slab = self.slabs[0]
        same = np.fromiter((other is slab for other in self.slabs), dtype=bool, count=len(self.slabs))
        same &= self.sizes == self.sizes[0]
        return len(same) if same.all() else int(same.argmin())

    @property
    def current(self) -> int:
        """How many of them, from the first on, are still what they were; they are all of one slab."""
        still = self.slabs[0].words[self.offsets // 8] == self.generations
        return len(still) if still.all() else int(still.argmin())
