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

TIERS = ({"name": "cpu", "capacity": "48MiB"}, {"name": "redis"}, {"name": "disk", "capacity": "512MiB"})
"""Redis before the disk, so that it is read from."""

PROMISE = 0.25
"""Seconds after its deadline by which a call must have ended."""

HEAL_SECONDS = 5.0
HEAL_REDIS_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """How long, from which seed, and by which ways payload travels."""

    minutes: float
    seed: int
    transports: Sequence[str]


def keys_of(number: int) -> Chain:
    """The keys of one prompt."""
    return chain(SPEC, random_tokens(BLOCKS * SPEC.block_tokens, 1_000_000 + number))


def durable(number: int) -> bool:
    """Whether this prompt is put as durable."""
    return number % DURABLE_OF == 0
