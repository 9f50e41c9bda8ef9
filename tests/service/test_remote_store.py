"""The store's own conformance suite, over gRPC."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.hashing import chain
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import PutStatus, Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import StoreTests, plans_of, random_blocks, random_prompt, random_tokens, same
from cachestore.testing.puts import PutTests
from cachestore.tiers.cpu import Cpu


class TestInProcess(StoreTests):
    @pytest.fixture
    def store(self, remote: RemoteStore) -> Store:
        return remote


class TestUnixSocketCompressed(PutTests):
    @pytest.fixture
    def store(self, serve: Callable[..., CacheStoreServer], tmp_path: Path) -> Iterator[Store]:
        server = serve(unix_socket=str(tmp_path / "store.sock"))
        with RemoteStore(server.address, codec="lz4", frame_bytes=4096) as remote:
            yield remote


@pytest.mark.slow
class TestAllOverUnixSocketCompressed(TestUnixSocketCompressed, StoreTests):
    pass


class TestOtherProcess(PutTests):
    @pytest.fixture
    def store(self, elsewhere: Callable[[], RemoteStore]) -> Iterator[Store]:
        with elsewhere() as remote:
            yield remote


def test_looking_keeps_nothing_from_leaving() -> None:
    memory = Cpu(1 << 20, 1 << 20).start()
    spec = BlockSpec("test/half", "0" * 40, "float32", (Slot(4, 64, 64),), head_groups=1, block_tokens=192)
    prompts = [random_tokens(192, seed) for seed in range(3)]
    keys = [chain(spec, tokens) for tokens in prompts]
    with (
        TieredStore(memory, (), create("raw"), Lru()) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
        RemoteStore(server.address) as store,
    ):
        for tokens in prompts[:2]:
            put_blocks(store, keys[0].fingerprint, random_blocks(spec, tokens, 1))
        assert [store.lookup(one).ready for one in keys] == [1, 1, 0]
        assert store.lookup(keys[0]).ready == 1
        put_blocks(store, keys[0].fingerprint, random_blocks(spec, prompts[2], 1))
        assert [store.lookup(one).ready for one in keys] == [0, 1, 1]
        with store.read(keys[1]) as reading:
            assert len(list(reading)) == 1
        put_blocks(store, keys[0].fingerprint, random_blocks(spec, prompts[0], 1))
        assert [store.lookup(one).ready for one in keys] == [1, 1, 0]


@pytest.mark.parametrize("frame_bytes", [4096, 10_000, 1 << 20])
@pytest.mark.parametrize("together", [1, 2, 3, 13])
def test_planes_of_any_size_fit_into_frames(server: CacheStoreServer, frame_bytes: int, together: int) -> None:
    small, large = Slot(1, 16, 16), Slot(1, 1024, 512)
    slots = (small, small, large, small, large, large, *[small] * 20)
    keys, blocks = random_prompt(BlockSpec("test/mixed", "0" * 40, "float32", slots, 1, block_tokens=4), 2)
    with RemoteStore(server.address, transports=("stream",), frame_bytes=frame_bytes) as store:
        with store.put(keys.fingerprint, plans_of(blocks)) as put:
            starts = range(0, len(blocks[0].planes), together)
            # from both ends, so that runs break off
            for start in (*starts[1::2], *reversed(starts[::2])):
                for number, block in enumerate(blocks):
                    put.write(number, start, np.concatenate(list(block.data)[start : start + together]))
            put.commit()
            assert [answer.status for answer in put.answers] == [PutStatus.STORED] * 2
        with store.read(keys) as reading:
            assert all(map(same, [block for block, _ in reading], blocks))
