"""A piece of shared memory that belongs to one namespace for all its life.

It is a memfd, never a named file: who has the descriptor has the memory, and it is gone with its last user. A slot in
it starts with a generation word that is set when the slot is given out and zeroed when it is taken back, so that a
reader who copied from it can tell whether the bytes were still the ones it was promised.
"""

import fcntl
import mmap
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock
from cachestore.tiers.extents import Extents

UNIT = 512
WORD_BYTES = 64
"""What the generation word takes in front of a slot's bytes, so that these stay aligned."""


@dataclass(eq=False)
class Slab:
    """`size` bytes of shared memory of one namespace."""

    namespace: bytes
    size: int
    descriptor: int = field(init=False)
    bytes: Buffer = field(init=False, repr=False)
    words: NDArray[np.uint64] = field(init=False, repr=False)
    extents: Extents = field(init=False)

    def __post_init__(self) -> None:
        self.descriptor = os.memfd_create("cachestore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, self.size)
        # nobody who holds the descriptor can cut the memory away under the others
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.bytes = np.frombuffer(mmap.mmap(self.descriptor, self.size), dtype=np.uint8)
        self.words = self.bytes.view(np.uint64)
        self.extents = Extents(self.size, UNIT)

    def close(self) -> None:
        """Gives up the descriptor; the memory goes when the last view of it does."""
        os.close(self.descriptor)


@dataclass(eq=False)
class Slot:
    """`nbytes` bytes of a slab, given out under one generation until they are taken back."""

    slab: Slab
    offset: int
    nbytes: int
    generation: int
    live: bool = True

    @property
    def bytes(self) -> Buffer:
        """The slot's memory, generation word excluded."""
        start = self.offset + WORD_BYTES
        return self.slab.bytes[start : start + self.nbytes]

    def check(self) -> None:
        """CorruptBlock if the slot was taken back since it was given out: what was copied may be anything."""
        if not self.live or int(self.slab.words[self.offset // 8]) != self.generation:
            raise CorruptBlock("stale")
