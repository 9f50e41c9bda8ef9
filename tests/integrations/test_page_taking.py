"""Blocks that go from a read into an engine's pages, a few layers at a time."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Slot
from cachestore.codecs.planes import PIECE
from cachestore.engine.page_memory import PageMemory
from cachestore.integrations import page_taking
from cachestore.integrations.page_taking import PageTaker
from cachestore.integrations.pages import EnginePages
from cachestore.integrations.vllm_shards import shard
from cachestore.service.client import RemoteStore
from cachestore.store.base import Store, put_blocks
from cachestore.testing.blocks import random_prompt
from tests.integrations.conftest import Served

PAGE = 4
SLOTS = (*[Slot(2, 8, 8)] * 3, Slot(4, 8, 4), *[Slot(2, 8, 0)] * 2, *[Slot(2, 8, 8)] * 4)
SPEC = BlockSpec("model", "one", "float16", SLOTS, 2, block_tokens=12)
HELD = [5, 1, 3, 8, 7, 6, 0, 2, 4]
"""Three blocks' pages, of which the last block's and the first's are in no order."""


def caches() -> list[torch.Tensor]:
    """Caches of 10 pages; one is laid out otherwise, so that torch has to copy it."""
    found = [torch.zeros(10, slot.kv_heads, PAGE, slot.key_dim + slot.value_dim, dtype=torch.float16) for slot in SLOTS]
    found[7] = found[7].transpose(2, 3).contiguous().transpose(2, 3)
    return found


@pytest.fixture(params=["local", "shared"])
def store(request: pytest.FixtureRequest, served: Served) -> Iterator[Store]:
    if request.param == "local":
        yield served.store.namespace("default")
    else:
        with RemoteStore(served.address) as remote:
            yield remote


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("most", [1, 2 * 3 * 12 * 16 * 2, 1 << 20])
def test_blocks_come_into_their_pages(store: Store, monkeypatch: pytest.MonkeyPatch, most: int, ranks: int) -> None:
    monkeypatch.setattr(page_taking, "PIECE", most)
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    for rank, skip in itertools.product(range(ranks), (0, 1, 5)):
        held = shard(SPEC, rank, ranks)
        heads = [slot.kv_heads for slot in held.spec.slots]
        found = [cache[:, :count] for cache, count in zip(caches(), heads, strict=True)]
        expected = EnginePages(held.spec, [torch.zeros_like(cache) for cache in found], PAGE)
        memory = PageMemory(held.spec, 1, torch.device("cpu"))
        for number, block in enumerate(blocks):
            planes = zip(block.planes, block.data, strict=True)
            memory.buffer(0)[:] = np.concatenate([data for id, data in planes if held.part.holds(*id[:3])])
            for slot in range(len(SLOTS)):
                expected.give(slot, HELD[3 * number : 3 * number + 3], memory, 0, min(3, max(0, skip - 3 * number)))
        taker = PageTaker(EnginePages(held.spec, found, PAGE))
        assert len(taker.rooms) == {1: len(SLOTS), 1 << 20: 1}.get(most, len(taker.rooms))
        # the same taker again: what it had before is of no account
        for first in (1, 0):
            taker.towards(HELD[3 * first :], max(0, skip - 3 * first))
            with store.read(keys.behind(first), part=held.part) as reading:
                assert reading.fill(taker) == 3 - first
        for cache, other in zip(found, expected.caches, strict=True):
            assert cache.any() and torch.equal(cache.view(torch.int16), other.view(torch.int16))


def test_layers_that_are_alike_pass_through_the_same_memory() -> None:
    taker = PageTaker(EnginePages(SPEC, caches(), PAGE))
    assert len(taker.rooms) == 1 and taker.nbytes == PageMemory.page_bytes(SPEC)
    alike = BlockSpec("model", "one", "bfloat16", (Slot(8, 128, 128),) * 6, 8)
    pages = EnginePages(alike, [torch.zeros(1, 8, 16, 256, dtype=torch.bfloat16)] * 6, 16)
    assert [room.nbytes for room in PageTaker(pages).rooms] == [PIECE] * 6 and PageTaker(pages).nbytes == PIECE
