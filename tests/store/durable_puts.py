"""Puts that are to be durable, of small blocks."""

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.store.base import Durability, PutAnswer, Store
from cachestore.testing import plans_of, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
FILES = 256
"""How many of these blocks the smallest disk tier takes."""


def keep(store: Store, keys: Chain, blocks: list[Block], ttl: float | None = None) -> list[PutAnswer]:
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE, ttl=ttl) as put:
        write_blocks(put, [block for block, answer in zip(blocks, put.answers, strict=True)])
        put.commit()
        return list(put.answers)


def read(store: Store, keys: Chain) -> list[tuple[Block, str]]:
    with store.read(keys) as reading:
        return [(block, tier) for block, tier in reading]
