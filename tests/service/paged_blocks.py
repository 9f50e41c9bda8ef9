"""Blocks that are put into pages and read from them, and where a test finds them."""

from typing import Any

import numpy as np

from cachestore.hashing import namespace_id
from cachestore.service.client import RemoteStore
from cachestore.store.base import Loaded, Put
from cachestore.testing import plans_of, random_prompt, same, small_spec
from cachestore.tiers.gpu_tier import GpuTier
from tests.service.sessions import SOON

KEYS, BLOCKS = random_prompt(small_spec(), 8)
DEFAULT = namespace_id("default")


def used(tier: GpuTier) -> int:
    return tier.usage().used


def tiers(store: RemoteStore) -> list[tuple[str, int]]:
    return [(run.tier, run.blocks) for run in store.lookup(KEYS).runs]


def room() -> list[Any]:
    return [np.empty(sum(plane.nbytes for plane in block.data), dtype=np.uint8) for block in BLOCKS]


def check(loaded: list[Loaded], *held_by: str) -> None:
    assert [tier for _, tier in loaded] == list(held_by)
    assert all(same(block, wanted) for (block, _), wanted in zip(loaded, BLOCKS, strict=False))


def opened(store: RemoteStore) -> Put:
    return store.put(KEYS.fingerprint, plans_of(BLOCKS), timeout=SOON)


def written(put: Put, *blocks: int) -> None:
    """Plane by plane, last of each block first."""
    for block in blocks:
        for plane, data in reversed(list(enumerate(BLOCKS[block].data))):
            put.write(block, plane, data)
