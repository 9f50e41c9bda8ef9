"""What the rows of `store.py` about cold tiers share: sealed blocks, how the store reads them, and fair turns."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from store_memory import MIB, Clock, last_level_cache

from cachestore.block import WHOLE, Buffer
from cachestore.deadline import Deadline
from cachestore.index import Name
from cachestore.seal import header_bytes
from cachestore.store.fetching import Batches
from cachestore.store.inspection import opened
from cachestore.store.local_reading import decoded
from cachestore.store.settings import StoreSettings
from cachestore.testing.sealed import sealed_block
from cachestore.tiers.base import ColdTier

PLANES, PLANE_BYTES = 64, 32 << 10
BLOCK_BYTES = PLANES * PLANE_BYTES
SEALED_BYTES = header_bytes(PLANES) + BLOCK_BYTES
NAMESPACE, FINGERPRINT = b"n" * 32, b"f" * 32
PATIENCE = 60.0
"""Seconds that a call may take at most: a tier that gives up early would measure nothing."""


def _batch() -> int:
    batches = Batches(StoreSettings().fetch_bytes)
    batches.saw(NAMESPACE, FINGERPRINT, SEALED_BYTES)
    return batches.blocks(NAMESPACE, FINGERPRINT)


BATCH = _batch()
"""Blocks that a tier is asked for at once: as many as a store would that is set up as it comes."""


def working_set(quick: bool) -> int:
    """So many blocks that no cache still has one when it is read again; whole batches, an even number of them."""
    nbytes = 64 * MIB if quick else max(256 * MIB, 2 * last_level_cache())
    return -(-nbytes // (2 * BATCH * BLOCK_BYTES)) * 2 * BATCH


def key_of(number: int) -> bytes:
    """The key of the block with this number."""
    return number.to_bytes(32, "big")


def sealed(number: int) -> Buffer:
    """A block of 2 MiB in 64 planes of random bytes, raw."""
    return sealed_block(NAMESPACE, key_of(number), SEALED_BYTES, number, planes=PLANES)


def buffers(count: int, nbytes: int) -> list[Buffer]:
    """Memory for a yardstick, each piece on its own as a tier's are: one large array would lie in huge pages."""
    return [np.ones(nbytes, dtype=np.uint8) for _ in range(count)]


def fill(tier: ColdTier, count: int) -> None:
    """Puts so many blocks."""
    for start in range(0, count, BATCH):
        blocks = [(key_of(number), sealed(number)) for number in range(start, min(start + BATCH, count))]
        assert all(tier.put_many(NAMESPACE, blocks, None, Deadline.after(PATIENCE)))


def read(tier: ColdTier, numbers: Sequence[int], into: Sequence[Buffer] | None = None) -> None:
    """Reads and verifies blocks as the store does, into memory that the tier brings or that is given."""
    keys = [key_of(number) for number in numbers]
    found = tier.get_many(NAMESPACE, keys, Deadline.after(PATIENCE))
    for index, key in enumerate(keys):
        data = found[index]
        assert isinstance(data, np.ndarray)
        header = opened(data, Name(NAMESPACE, key), FINGERPRINT)
        decoded(header, data[header.size :], WHOLE, None if into is None else into[index], own=True)


@dataclass(frozen=True)
class Turns:
    """Two sides that read the same blocks, batch by batch, half the working set apart.

    So neither finds in a cache what the other has just read, and between two readings of a block lies the whole set.
    Which side begins is drawn for every turn.
    """

    count: int
    clock: Clock

    def run(self, rounds: int, ours: Callable[[range], object], yardstick: Callable[[range], object]) -> None:
        """Every batch once a round on both sides; the first round is to warm up."""
        drawn = random.Random(0)
        for turn in range(rounds + 1):
            for start in range(0, self.count, BATCH):
                other = (start + self.count // 2) % self.count
                sides = [("ours", ours, range(start, start + BATCH))]
                sides.append(("yardstick", yardstick, range(other, other + BATCH)))
                drawn.shuffle(sides)
                for name, work, numbers in sides:
                    self.clock.time(name, partial(work, numbers))
            if not turn:
                self.clock.forget()
