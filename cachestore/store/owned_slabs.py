"""Device memory that a worker shares with others of its namespace by way of the store of their node."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cachestore.errors import InvalidArgument, Mismatch, Unavailable
from cachestore.tiers.gpu_words import UNIT, Words, check_memory, map_words

LARGEST_SLAB = 1 << 40
LONGEST_TOKEN = 128


class OfferedSlab(NamedTuple):
    """Device memory as its owner tells of it: the descriptors, -1 for none, stay the caller's."""

    number: int
    nbytes: int
    token: bytes
    words: int
    memory: int


@dataclass(eq=False)
class OwnedSlab:
    """`number` is the store's, and never used again. The descriptors are its own."""

    number: int
    nbytes: int
    device: str
    token: bytes
    words: Words
    words_descriptor: int
    memory_descriptor: int

    def close(self) -> None:
        """Gives up the descriptors."""
        for descriptor in (self.words_descriptor, self.memory_descriptor):
            if descriptor >= 0:
                os.close(descriptor)

    def copies(self) -> tuple[int, ...]:
        """The descriptors again, which are the caller's. OSError if this process may open no more."""
        return _copies([one for one in (self.words_descriptor, self.memory_descriptor) if one >= 0])


class ShownSlab(NamedTuple):
    """What a client opens a slab with; the descriptors are the caller's to close."""

    number: int
    nbytes: int
    token: bytes
    descriptors: tuple[int, ...]


def opened(slab: OfferedSlab, number: int, device: str) -> OwnedSlab:
    """The slab that is offered, under a number of the store's.

    InvalidArgument if it cannot be one, Unavailable if this process can open no more.
    """
    if not 0 < slab.nbytes <= LARGEST_SLAB or slab.nbytes % UNIT:
        raise InvalidArgument(f"slabs: one has a multiple of {UNIT} bytes up to {LARGEST_SLAB}, got {slab.nbytes}")
    if len(slab.token) > LONGEST_TOKEN or (slab.memory < 0) != bool(slab.token):
        raise InvalidArgument(f"slabs: one has a descriptor, or else a token of up to {LONGEST_TOKEN} bytes")
    try:
        words = map_words(slab.words, slab.nbytes)
        if slab.memory >= 0:
            check_memory(slab.memory, slab.nbytes)
        descriptors = _copies([one for one in (slab.words, slab.memory) if one >= 0])
    except Mismatch as error:
        raise InvalidArgument(f"slabs: the memory of {slab.number} cannot be shared ({error})") from error
    except OSError as error:
        raise Unavailable(f"slabs: the store can open no more memory now ({error.strerror})") from error
    memory = descriptors[1] if len(descriptors) == 2 else -1
    return OwnedSlab(number, slab.nbytes, device, slab.token, words, descriptors[0], memory)


def _copies(descriptors: Sequence[int]) -> tuple[int, ...]:
    """All of them again, or none."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        for copy in copies:
            os.close(copy)
        raise
    return tuple(copies)
