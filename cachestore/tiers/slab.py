"""A piece of shared memory that belongs to one namespace for all its life.

It is a memfd, never a named file: who has the descriptor has the memory, and it is gone with its last user. A slot in
it starts with a generation word that is set when the slot is given out and zeroed when it is taken back, so that a
reader who copied from it can tell whether the bytes were still the ones it was promised.

Nobody but the store can write to it, whatever descriptor they have; only the `owner` of a slab, a writer in another
process, may until it is made read-only for all others, before a reader sees any of it.
"""

import fcntl
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock
from cachestore.tiers.paging import Paging

UNIT = 512
WORD_BYTES = 64
"""What the generation word takes in front of a slot's bytes, so that these stay aligned."""

SPAN = 1 << 48
"""How far apart slabs lie in the address space in which free space is kept; no slab is that long."""


SEAL_FUTURE_WRITE = 0x0010
"""No further mapping of a memfd may be written to (Linux 5.1, `fcntl(2)`); Python 3.11 has no name for it."""


def footprint(nbytes: int) -> int:
    """What a slot of `nbytes` takes of its slab."""
    return (nbytes + WORD_BYTES + UNIT - 1) // UNIT * UNIT


@dataclass(eq=False)
class Slab:
    """`size` bytes of shared memory of one namespace; `number` tells it from the others of its tier.

    Nothing of it is resident before it is written to, unless it is pinned.
    """

    namespace: bytes
    size: int
    number: int = 0
    paging: Paging = field(default_factory=Paging, repr=False)
    owner: bytes = b""
    """Whose slots these are within the namespace; empty if they are for all its blocks."""
    descriptor: int = field(init=False)
    bytes: Buffer = field(init=False, repr=False)
    words: NDArray[np.uint64] = field(init=False, repr=False)
    slots: "dict[int, Slot]" = field(default_factory=dict, repr=False)
    """What is given out, by offset."""
    used: int = 0
    """Bytes given out, words and rounding included."""
    _pinned: bool = False

    def __post_init__(self) -> None:
        self.descriptor = os.memfd_create("cachestore", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, self.size)
            # nobody who holds the descriptor can cut the memory away under the others
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            memory = mmap.mmap(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self.paging.advise(memory)
        self.bytes = np.frombuffer(memory, dtype=np.uint8)
        self.words = self.bytes.view(np.uint64)
        self._pinned = self.paging.pin(self.bytes)
        if not self.owner:
            self.protect()

    @property
    def base(self) -> int:
        """Where it lies in the address space in which free space is kept."""
        return self.number * SPAN

    def protect(self) -> None:
        """Lets nobody map it to write from now on; mappings that are there stay as they are. Twice is allowed."""
        # a kernel before 5.1 has only the second: then another process of this very user could undo it
        with suppress(OSError):
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, SEAL_FUTURE_WRITE)
        os.fchmod(self.descriptor, 0o400)

    def readable(self) -> int:
        """A descriptor of its own that can only be read from; the caller closes it. OSError if there can be none."""
        return os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC)

    def writable(self) -> int:
        """The same for the owner, who may map it to write until it is protected."""
        return os.dup(self.descriptor)

    def close(self) -> None:
        """Gives up the descriptor; the memory goes when the last view of it does."""
        # slots know their slab: without this the two would hold each other, and the memory
        self.slots.clear()
        if self._pinned:
            self.paging.unpin(self.bytes)
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


@dataclass(eq=False, slots=True)
class Slot:
    """`nbytes` bytes of a slab, given out under one generation until they are taken back."""

    slab: Slab
    offset: int
    nbytes: int
    generation: int
    live: bool = True
    key: bytes = b""
    """Whose bytes these are, once somebody said so: who moves them finds the block, and what has none is not moved."""

    @property
    def bytes(self) -> Buffer:
        """The slot's memory, generation word excluded."""
        start = self.offset + WORD_BYTES
        return self.slab.bytes[start : start + self.nbytes]

    @property
    def size(self) -> int:
        """What it takes of its slab."""
        return footprint(self.nbytes)

    def check(self) -> None:
        """CorruptBlock if the slot was taken back since it was given out: what was copied may be anything."""
        if not self.live or int(self.slab.words[self.offset // 8]) != self.generation:
            raise CorruptBlock("stale")
