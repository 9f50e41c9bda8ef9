"""Engine pages to blocks and back, in every order of strides, and the proof that the layout is the one it names."""

import itertools

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Half, Slot
from cachestore.engine.page_memory import PageMemory
from cachestore.errors import ConfigError, Mismatch
from cachestore.integrations.page_rows import Beside, Held
from cachestore.integrations.pages import EnginePages, prove

PAGE = 4
SPEC = BlockSpec("model", "one", "float16", (Slot(2, 8, 8), Slot(2, 8, 4)), 1, block_tokens=12)


def caches(order: tuple[int, ...]) -> list[torch.Tensor]:
    """Caches of 7 pages whose axes lie in memory in this order."""
    found = []
    for slot in SPEC.slots:
        shape = (7, 2, PAGE, slot.key_dim + slot.value_dim)
        whole = torch.randn([shape[axis] for axis in order], dtype=torch.float32).to(torch.float16)
        found.append(whole.permute([order.index(axis) for axis in range(4)]))
    return found


@pytest.mark.parametrize("order", [*((*outer, 3) for outer in itertools.permutations(range(3))), (0, 1, 3, 2)])
def test_blocks_hold_what_pages_held(order: tuple[int, ...]) -> None:
    pages, memory = EnginePages(SPEC, caches(order), PAGE), PageMemory(SPEC, 2, torch.device("cpu"))
    other = EnginePages(SPEC, [torch.zeros_like(cache) for cache in pages.caches], PAGE)
    for slot, held in itertools.product(range(2), ([5, 1, 3], [2, 3, 4], [2, 1, 0])):
        pages.take(slot, held, memory, 1)
        dim = SPEC.slots[slot].key_dim
        tokens = torch.cat([pages.caches[slot][page] for page in held], 1)
        assert torch.equal(memory.half(slot, Half.K)[1], tokens[..., :dim])
        assert torch.equal(memory.half(slot, Half.V)[1], tokens[..., dim:])
        other.caches[slot].zero_()
        other.give(slot, held, memory, 1, skip=1)
        for page in range(7):
            expected = pages.caches[slot][page] if page in held[1:] else torch.zeros(())
            assert (other.caches[slot][page] == expected).all()


def test_slots_that_lie_alike_are_copied_at_once() -> None:
    slots = (*[Slot(2, 8, 8)] * 3, Slot(2, 8, 4), *[Slot(2, 4, 8)] * 2, *[Slot(2, 8, 8)] * 4)
    spec = BlockSpec("model", "one", "float16", slots, 1, block_tokens=12)
    whole = torch.zeros(len(slots), 7, 2, PAGE, 16, dtype=torch.float16)
    found = [cache[..., : slot.key_dim + slot.value_dim] for cache, slot in zip(whole, slots, strict=True)]
    # one that lies elsewhere, and one that torch has to copy
    found[6], found[8] = torch.zeros_like(found[6]), found[8].transpose(2, 3).contiguous().transpose(2, 3)
    memory = PageMemory(spec, 2, torch.device("cpu"))
    memory.buffer(1)[:] = np.random.default_rng(1).integers(0, 256, PageMemory.page_bytes(spec), dtype=np.uint8)
    pages = EnginePages(spec, found, PAGE)
    runs = [run.slots for run in Beside(found, memory, pages.per_block).runs]
    assert runs == [range(3), range(3, 4), range(4, 6), range(6, 8), range(8, 9), range(9, 10)]
    for skip, held in itertools.product(range(3), ([5, 1, 3], [2, 3, 4], [1, 5, 6], [2, 1, 0], [6, 3, 0], [0, 1, 4])):
        expected = EnginePages(spec, [torch.zeros_like(cache) for cache in found], PAGE)
        for slot, cache in enumerate(found):
            cache.zero_()
            expected.give(slot, held, memory, 1, skip)
        pages.give_all(Held.of(held, skip), memory, 1)
        for cache, other in zip(found, expected.caches, strict=True):
            assert cache.any() and torch.equal(cache.view(torch.int16), other.view(torch.int16))


def test_the_proof_finds_what_the_shape_does_not() -> None:
    pages = EnginePages(SPEC, caches((0, 1, 2, 3)), PAGE)
    before = [cache.clone() for cache in pages.caches]

    def right(slot: int, page: int, key: torch.Tensor, value: torch.Tensor) -> None:
        pages.caches[slot][page] = torch.cat((key, value), -1).transpose(0, 1)

    def halves_swapped(slot: int, page: int, key: torch.Tensor, value: torch.Tensor) -> None:
        pages.caches[slot][page] = torch.cat((value, key), -1).transpose(0, 1)

    def heads_and_tokens_swapped(slot: int, page: int, key: torch.Tensor, value: torch.Tensor) -> None:
        pages.caches[slot][page] = torch.cat((key, value), -1).reshape(pages.caches[slot][page].shape)

    for slot in range(2):
        prove(pages, slot, 0, right)
        for wrong in (halves_swapped, heads_and_tokens_swapped):
            with pytest.raises(Mismatch, match=f"layer {slot}: known K and V"):
                prove(pages, slot, 0, wrong)
    assert all(torch.equal(cache, held) for cache, held in zip(pages.caches, before, strict=True))


def test_caches_that_are_not_the_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="block_tokens = 12 must be a multiple of the engine's 8 tokens"):
        EnginePages(SPEC, caches((0, 1, 2, 3)), 8)
    with pytest.raises(ConfigError, match="the engine has 1 caches, its model 2 slots"):
        EnginePages(SPEC, caches((0, 1, 2, 3))[:1], PAGE)
    with pytest.raises(ConfigError, match="layer 1: its cache is"):
        EnginePages(SPEC, caches((0, 1, 2, 3))[:1] * 2, PAGE)
