"""Specs and blocks to test with: small, random, and the same for the same seed."""

from collections.abc import Sequence

import numpy as np

from cachestore.block import Block, BlockSpec, Buffer, Part, PlaneId
from cachestore.block import Slot as KvSlot
from cachestore.hashing import Chain, chain
from cachestore.store.base import BlockPlan, Put


def small_spec(dtype: str = "float32", block_tokens: int = 4) -> BlockSpec:
    """A spec whose blocks have 8 planes of different sizes: two slots, K and V, two head groups."""
    slots = (KvSlot(4, 8, 8), KvSlot(2, 16, 8))
    return BlockSpec("test/model", "0" * 40, dtype, slots, head_groups=2, block_tokens=block_tokens)


def random_tokens(count: int, seed: int) -> list[int]:
    """`count` tokens that depend on the seed alone."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, 50_000, count)]


def random_planes(planes: Sequence[PlaneId], seed: int) -> list[Buffer]:
    """Normally distributed values for these planes, of whatever width."""
    random = np.random.default_rng(seed)
    data = []
    for plane in planes:
        count = -(-plane.raw_bytes // plane.item_bytes)
        values = random.standard_normal(count, dtype=np.float32).view(np.uint8).reshape(count, 4)
        # of a little-endian float the upper bytes are those that a narrower type keeps
        kept = values[:, -plane.item_bytes :]
        data.append(np.ascontiguousarray(kept).reshape(-1)[: plane.raw_bytes])
    return data


def random_blocks(spec: BlockSpec, tokens: Sequence[int], seed: int) -> list[Block]:
    """The full blocks of `tokens`, under their keys, with random values."""
    keys = chain(spec, tokens).keys
    planes = spec.planes()
    return [
        Block(key, spec.block_tokens, planes, random_planes(planes, seed + index)) for index, key in enumerate(keys)
    ]


def random_prompt(spec: BlockSpec, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    """The keys and blocks of a random prompt of `count` full blocks; of equal seeds one begins like the other."""
    tokens = random_tokens(count * spec.block_tokens, seed)
    return chain(spec, tokens), random_blocks(spec, tokens, seed)


def plans_of(blocks: Sequence[Block]) -> list[BlockPlan]:
    """What a put of these blocks plans to write."""
    return [BlockPlan(block.key, block.token_count, block.planes, block.short) for block in blocks]


def write_blocks(put: Put, blocks: Sequence[Block]) -> None:
    """Writes every plane of these blocks, the first plane of all blocks first."""
    for plane in range(max(len(block.planes) for block in blocks)):
        for index, block in enumerate(blocks):
            put.write(index, plane, block.data[plane])


def same(found: Block, wanted: Block, part: Part | None = None) -> bool:
    """Whether `found` has the planes of `wanted` that belong to `part`, with the same bytes."""
    pairs = zip(wanted.planes, wanted.data, strict=True)
    chosen = [(plane, data) for plane, data in pairs if part is None or part.holds(*plane[:3])]
    head = (found.key, found.token_count, found.short) == (wanted.key, wanted.token_count, wanted.short)
    planes = tuple(plane for plane, _ in chosen) == tuple(found.planes)
    return head and planes and all(map(np.array_equal, found.data, (data for _, data in chosen)))
