"""Adapters on a CUDA device: pages of an engine and caches of transformers, from the store bit by bit."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from cachestore.block import BlockSpec, Half, Slot
from cachestore.engine.page_memory import PageMemory
from cachestore.integrations.page_taking import PageTaker
from cachestore.integrations.pages import EnginePages, prove
from cachestore.integrations.staging import Staging
from cachestore.integrations.transformers import PrefixCache
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing.blocks import random_prompt

pytestmark = pytest.mark.gpu

PAGE = 16
SPEC = BlockSpec("model", "one", "bfloat16", (Slot(2, 64, 64), Slot(2, 64, 64)), 1, block_tokens=64)
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "eos_token_id": None,
}


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with compose({"tiers": [{"name": "cpu", "capacity": "64MiB"}]}) as store:
        yield store
        store.settle()
        store.check()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3)])
def test_blocks_hold_what_pages_on_the_device_held(order: tuple[int, ...]) -> None:
    def cache() -> torch.Tensor:
        shape = (12, 2, PAGE, 128)
        whole = torch.randn([shape[axis] for axis in order], device="cuda").to(torch.bfloat16)
        return whole.permute([order.index(axis) for axis in range(4)])

    pages, staging = EnginePages(SPEC, [cache(), cache()], PAGE), Staging(SPEC, 4 * PageMemory.page_bytes(SPEC))
    other = EnginePages(SPEC, [torch.zeros_like(each) for each in pages.caches], PAGE)
    (block,) = staging.take(1, 0.0)
    for slot in range(2):
        for held in ([5, 1, 3, 9], [2, 3, 4, 5]):
            pages.take(slot, held, staging.memory, block)
            torch.cuda.synchronize()
            tokens = torch.cat([pages.caches[slot][page] for page in held], 1).cpu()
            assert torch.equal(staging.memory.half(slot, Half.K)[block], tokens[..., :64])
            assert torch.equal(staging.memory.half(slot, Half.V)[block], tokens[..., 64:])
            other.caches[slot].zero_()
            other.give(slot, held, staging.memory, block, skip=1)
            torch.cuda.synchronize()
            for page in held[1:]:
                assert torch.equal(other.caches[slot][page], pages.caches[slot][page])
            assert not other.caches[slot][held[0]].any()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3), (1, 0, 2, 3)])
def test_blocks_are_taken_into_pages_on_the_device(order: tuple[int, ...], tiered: TieredStore) -> None:
    def cache() -> torch.Tensor:
        shape = (12, 2, PAGE, 128)
        whole = torch.zeros([shape[axis] for axis in order], device="cuda", dtype=torch.bfloat16)
        return whole.permute([order.index(axis) for axis in range(4)])

    store, held = tiered.namespace("default"), [5, 1, 3, 9, 2, 4, 6, 8, 11, 10, 7, 0]
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    pages, memory = EnginePages(SPEC, [cache(), cache()], PAGE), PageMemory(SPEC, 1, torch.device("cpu"))
    taker = PageTaker(pages)
    assert [room.nbytes for room in taker.rooms] == [PageMemory.page_bytes(SPEC)]
    taker.towards(held, 5)
    with store.read(keys) as reading:
        assert reading.fill(taker) == 3
    for number, block in enumerate(blocks):
        memory.buffer(0)[:] = np.concatenate(block.data)
        for slot, place in itertools.product(range(2), range(4)):
            found = pages.caches[slot][held[4 * number + place]].cpu()
            if 4 * number + place < 5:
                assert not found.any()
                continue
            for half, content in ((Half.K, found[..., :64]), (Half.V, found[..., 64:])):
                assert torch.equal(content, memory.half(slot, half)[0][:, PAGE * place : PAGE * (place + 1)])


def test_the_layout_is_proven_on_the_device() -> None:
    cache = torch.randn(4, 2, PAGE, 128, device="cuda").to(torch.bfloat16)
    pages = EnginePages(BlockSpec("model", "one", "bfloat16", SPEC.slots[:1], 1, block_tokens=PAGE), [cache], PAGE)
    before = cache.clone()
    prove(pages, 0, 0, lambda slot, page, key, value: cache[page].copy_(torch.cat((key, value), -1).transpose(0, 1)))
    assert torch.equal(cache, before)


@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), MistralConfig(**SHAPE, sliding_window=32)])
def test_generates_the_same_tokens_cold_and_from_the_store(config: Any, tiered: TieredStore) -> None:
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().to("cuda")
    cache = PrefixCache(tiered.namespace("default"), model, revision="random", block_tokens=16)
    ids = torch.randint(3, 97, (1, 100), device="cuda")
    mask = torch.ones_like(ids)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(cache.generate(ids, mask, max_new_tokens=8, do_sample=False), expected)
    assert total(cache.figures(), "loaded_tokens") == 0
    assert torch.equal(cache.generate(ids, mask, max_new_tokens=8, do_sample=False), expected)
    assert total(cache.figures(), "loaded_tokens") == 96
    held = cache.load(ids, mask)
    assert all(layer.keys.is_cuda for layer in held.layers)
