"""Blocks whose bytes follow from their key alone, so that whoever reads one can tell by itself whether it is right."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from cachestore.block import Block, BlockSpec, Buffer, PlaneId
from cachestore.hashing import Chain, chain
from cachestore.testing import random_tokens

KINDS = 4


def planes_of(key: bytes, planes: Sequence[PlaneId], variant: int = 0) -> list[Buffer]:
    """The bytes of each plane of this key: noise, halves of floats, almost all zeros, or rare floats, by the key."""
    seed = sha256(key + bytes([variant])).digest()
    random = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
    return [_plane(random, plane, seed[16] % KINDS) for plane in planes]


def _plane(random: np.random.Generator, plane: PlaneId, kind: int) -> Buffer:
    size = plane.raw_bytes
    if kind == 0:
        return np.frombuffer(random.bytes(size), dtype=np.uint8)
    if kind == 1:
        made = random.standard_normal(-(-size // 4), dtype=np.float32).astype(np.float16).astype(np.float32)
        return np.ascontiguousarray(made.view(np.uint8)[:size])
    made = np.zeros(size, dtype=np.uint8)
    if kind == 3:
        rare = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], dtype=np.float32)
        made[:] = np.resize(rare.view(np.uint8), size)
    # what tells this plane from every other
    tag = np.frombuffer(random.bytes(min(8, size)), dtype=np.uint8)
    made[: tag.nbytes] = tag
    return made


def block_of(key: bytes, spec: BlockSpec, variant: int = 0) -> Block:
    """The block of this key."""
    planes = spec.planes()
    return Block(key, spec.block_tokens, planes, planes_of(key, planes, variant))


def prompt(spec: BlockSpec, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    """The keys and blocks of a prompt of `count` full blocks."""
    keys = chain(spec, random_tokens(count * spec.block_tokens, seed))
    return keys, [block_of(key, spec) for key in keys.keys]


def right(block: Block, variant: int = 0) -> bool:
    """Whether these are the bytes of this block's key, in this variant."""
    return all(map(np.array_equal, block.data, planes_of(block.key, block.planes, variant)))
