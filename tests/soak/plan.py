"""What one run is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from cachestore.block import BlockSpec, Slot
from cachestore.hashing import Chain, chain
from cachestore.testing import random_tokens

SPEC = BlockSpec("test/soak", "0" * 40, "float16", (Slot(4, 64, 64), Slot(4, 64, 64)), head_groups=2, block_tokens=32)
"""Eight planes of 8 KiB."""

BLOCKS = 4
"""Blocks of one prompt."""

NAMESPACES = ("north", "south")
"""Both have the same keys with other bytes: what one has must never be found in the other."""

PROMPTS = 300
"""Prompts in use in each: 150 MiB in all, three times what memory holds."""

DURABLE_OF = 4
"""Every so manieth prompt is put as durable."""

MEMORY = 48 << 20
"""Bytes of memory of all nodes."""

DISK = 512 << 20

PROMISE = 0.25
"""Seconds after its deadline by which a call must have ended."""

LIFE = 10.0
"""Seconds after which a node that says nothing is dead to the others."""

HEAL_SECONDS = 5.0
HEAL_REDIS_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """How long, from which seed, by which ways payload travels, and how many nodes with one Redis are one store."""

    minutes: float
    seed: int
    transports: Sequence[str]
    nodes: int = 1

    def home(self, number: int) -> int:
        """The node where a prompt is put, so that what happened to it has one order."""
        return number % self.nodes


def keys_of(number: int) -> Chain:
    """The keys of one prompt."""
    return chain(SPEC, random_tokens(BLOCKS * SPEC.block_tokens, 1_000_000 + number))


def durable(number: int) -> bool:
    """Whether this prompt is put as durable."""
    return number % DURABLE_OF == 0
