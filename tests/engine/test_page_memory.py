import mmap
from pathlib import Path

import numpy as np
import torch

from cachestore.block import BlockSpec, Slot
from cachestore.engine.page_memory import PageMemory


def test_a_page_is_a_block_in_canonical_order() -> None:
    slots = (Slot(2, 16, 8), Slot(4, 8, 8), Slot(1, 24, 16))
    spec = BlockSpec(model="m", revision="r", dtype="float32", slots=slots, block_tokens=4, head_groups=1)
    memory = PageMemory(spec, 3, torch.device("cpu"))
    memory.buffer(1)[:] = np.arange(memory.page_bytes(spec) // 4, dtype=np.float32).view(np.uint8)
    for number, plane in enumerate(spec.planes()):
        held = memory.half(plane.slot, plane.half)[1].numpy()
        assert held.shape == (slots[plane.slot].kv_heads, 4, held.shape[-1])
        assert np.array_equal(held.reshape(-1).view(np.uint8), memory.planes(1, number, number + 1))
    assert not memory.buffer(0).any() and not memory.buffer(2).any()


def test_pages_are_resident_once_they_are_used() -> None:
    spec = BlockSpec(model="m", revision="r", dtype="float32", slots=(Slot(2, 16, 16),), block_tokens=4, head_groups=1)
    before = _resident()
    memory = PageMemory(spec, (1 << 30) // PageMemory.page_bytes(spec), torch.device("cpu"))
    assert not memory.buffer(memory.pages - 1).any()
    memory.buffer(0)[:] = 1
    assert _resident() - before < 1 << 28


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE
