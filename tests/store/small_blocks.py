"""Small blocks of one spec for stores under test, and what becomes of them."""

from cachestore.block import Block
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.store.base import Store
from cachestore.testing import random_blocks, random_tokens, small_spec

SPEC = small_spec()
BLOCK = 2560
"""What one block of SPEC takes in memory with its header and generation word, rounded up to whole units."""


def blocks_of(count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    tokens = random_tokens(count * SPEC.block_tokens, seed)
    return chain(SPEC, tokens), random_blocks(SPEC, tokens, seed)


def read(store: Store, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        return [block for block, _ in reading]


def outcome(store: Store) -> dict[str, int]:
    """How blocks that were asked for ended, without those that are none."""
    names = ("hits", "misses", "corrupt", "expired", "open")
    return {name: count for name in names if (count := total(store.stats(), f"read_{name}"))}
