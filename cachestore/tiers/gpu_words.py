"""Generation words: by them other processes know whether a page of a device still is what it was.

There is one for each `UNIT` bytes of a slab, in host memory that its owner shares for reading. A page's word is set
when the page is given out, and zeroed before its memory can be given out again.
"""

import fcntl
import mmap
import os
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cachestore.errors import Mismatch
from cachestore.seal import CorruptBlock

UNIT = 4096
"""Pages start at multiples of this."""

Words: TypeAlias = NDArray[np.uint64]


def words_bytes(nbytes: int) -> int:
    """How long the words of a slab of `nbytes` are."""
    return nbytes // UNIT * 8


def current(words: Words, offset: int, generation: int) -> bool:
    """Whether the page at `offset` still is of this generation."""
    return int(words[offset // UNIT]) == generation


def check_generation(words: Words, offset: int, generation: int) -> None:
    """CorruptBlock unless the page at `offset` still is of this generation."""
    if not current(words, offset, generation):
        raise CorruptBlock("stale")


def map_words(descriptor: int, nbytes: int) -> Words:
    """Another process's words of a slab of `nbytes`, for reading only; the descriptor stays the caller's.

    Mismatch if it is no memory of that size, OSError if it cannot be mapped.
    """
    check_memory(descriptor, words_bytes(nbytes))
    mapped = mmap.mmap(descriptor, words_bytes(nbytes), access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.uint64)


def check_memory(descriptor: int, nbytes: int) -> None:
    """Mismatch unless this is shared memory of so many bytes that stays as long as it is."""
    # memory that ends, or is cut off, sooner than it should would end this process when it is read
    try:
        if os.fstat(descriptor).st_size == nbytes and fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return
    except OSError:
        pass  # it is no memory at all
    raise Mismatch("the peer's shared memory is not of the size that it says")
