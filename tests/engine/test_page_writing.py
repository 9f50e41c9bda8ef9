"""Pages put as they lie on their device, coded there: what is read back is what the host's codec stores."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Buffer, Slot
from cachestore.codecs import create
from cachestore.deadline import Deadline
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.slot_put import SlotPut
from cachestore.engine.store_jobs import MemoryPut
from cachestore.eviction.lru import Lru
from cachestore.hashing import chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import PutStatus, Store
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore_kernels.method import Method
from tests.kernels.conftest import interpreting

SPEC = BlockSpec("m", "r", "float16", (Slot(2, 32, 32), Slot(2, 32, 24)), 2, block_tokens=8)
TOKENS = range(3 * 8)


class Watched(PageMemory):
    """Gives raw bytes to the host only where no kernel codes them."""

    def planes(self, page: int, first: int, last: int) -> Buffer:
        assert self.kernels is None
        return super().planes(page, first, last)


@pytest.fixture(scope="module", params=["naive", pytest.param("fused", marks=pytest.mark.slow)])
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    with interpreting():
        yield request.param


@pytest.fixture(params=["here", "shared", "bulk", "stream"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    with TieredStore(Cpu(16 << 20).start(), (), create("entropy"), Lru()) as tiered:
        if request.param == "here":
            yield tiered.namespace("default")
            return
        with (
            CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
            RemoteStore(server.address, codec="entropy", transports=(request.param,)) as remote,
        ):
            yield remote


def in_one(store: Store, memory: PageMemory) -> list[PutStatus]:
    keys = chain(memory.spec, TOKENS)
    return MemoryPut(store, memory, keys, 0, [2, 0, 3], Deadline.after(20.0)).run()


def by_slot(store: Store, memory: PageMemory) -> list[PutStatus]:
    put = SlotPut(store, chain(memory.spec, TOKENS), memory, Deadline.after(20.0), lambda: None)
    put.whole({0: 2})
    put.commit(0, 1)
    for slot in range(len(memory.spec.slots)):
        put.write(slot, 1, [0, 3], memory.moves.mark())
    put.commit(1, 3)
    put.end()
    return put.run()


def read(store: Store, spec: BlockSpec) -> list[Buffer]:
    with store.read(chain(spec, TOKENS)) as reading:
        return [np.concatenate(loaded.block.data) for loaded in reading]


@pytest.mark.parametrize("put", [in_one, by_slot])
@pytest.mark.parametrize("recipe", ["", "quantisation=int8,group=32"])
def test_readers_get_what_the_hosts_codec_gives(
    put: Callable[[Store, PageMemory], list[PutStatus]], recipe: str, method: Method, store: Store
) -> None:
    spec = replace(SPEC, recipe=recipe)
    memory = Watched(spec, 4, torch.device("cpu"))
    random = np.random.default_rng(3)
    for page in range(4):
        values = random.standard_normal(memory.page_bytes(spec) // 2).astype(np.float16)
        memory.buffer(page)[:] = values.view(np.uint8)
    found = []
    stored = []
    for kernels in (None, method):
        memory.kernels = kernels
        assert put(store, memory) == [PutStatus.STORED] * 3
        found.append(read(store, spec))
        stored.append(total(store.stats(), "tier_bytes"))
        assert store.delete(chain(spec, TOKENS)) == 3
    assert stored[0] == stored[1]
    for page, host, device in zip([2, 0, 3], *found, strict=True):
        # what a recipe rounds was rounded before, and is put as it lies there
        assert np.array_equal(host, device) and np.array_equal(host, memory.buffer(page))
