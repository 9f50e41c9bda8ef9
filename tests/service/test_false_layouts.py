"""A writer that says something false of a block's planes costs its readers that block, and nothing else."""

import numpy as np
import pytest

from cachestore.block import Block, Half, PlaneId
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import put_blocks
from cachestore.testing import check_sums, random_prompt, same, small_spec

KEYS, BLOCKS = random_prompt(small_spec(), 3)
SIZE = sum(data.nbytes for data in BLOCKS[0].data)


def false(block: Block, nbytes: int) -> Block:
    """A block of this key with one plane of so many bytes."""
    plane = PlaneId(0, Half.K, 0, 4, nbytes)
    return Block(block.key, block.token_count, (plane,), (np.ones(nbytes, dtype=np.uint8),))


@pytest.mark.parametrize("codec", ["raw", "lz4"])
@pytest.mark.parametrize("way", ["shared", "bulk", "stream"])
@pytest.mark.parametrize("nbytes", [64, SIZE + 64])
def test_a_block_of_another_size_is_a_miss_that_is_counted(
    server: CacheStoreServer, way: str, nbytes: int, codec: str
) -> None:
    with RemoteStore(server.address, transports=(way,), codec=codec) as store:
        put_blocks(store, KEYS.fingerprint, [BLOCKS[0], false(BLOCKS[1], nbytes), BLOCKS[2]])
        for _ in range(2):
            with store.read(KEYS, into=[np.zeros(SIZE, dtype=np.uint8) for _ in BLOCKS]) as reading:
                assert [same(block, BLOCKS[0]) for block, _ in reading] == [True]
        figures = store.stats()
        check_sums(figures)
        assert total(figures, "read_corrupt") == total(figures, "corruptions", tier="transit") == 2
        # the way goes on, and so does everything else
        behind = Chain(KEYS.fingerprint, KEYS.keys[2:])
        with store.read(behind, into=[np.zeros(SIZE, dtype=np.uint8)]) as reading:
            assert [same(block, BLOCKS[2]) for block, _ in reading] == [True]
        # whoever may write puts an end to it
        assert store.delete(KEYS) == 3
        put_blocks(store, KEYS.fingerprint, BLOCKS)
        with store.read(KEYS, into=[np.zeros(SIZE, dtype=np.uint8) for _ in BLOCKS]) as reading:
            assert all(map(same, (block for block, _ in reading), BLOCKS))
