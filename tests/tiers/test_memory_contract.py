"""The memory of the cpu tier and the pages of the gpu tier keep the same promises."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cachestore.block import Buffer
from cachestore.testing import MemoryTests
from cachestore.testing.memories import Memory
from cachestore.tiers.cpu import Cpu
from cachestore.tiers.gpu_memory import GRANULE, HostMemory
from cachestore.tiers.gpu_pages import PagePool
from cachestore.tiers.gpu_words import check_generation


class TestCpu(MemoryTests):
    @pytest.fixture(params=[0, *(pytest.param(slab, marks=pytest.mark.slow) for slab in (1 << 20, 16 << 20))])
    def memory(self, request: pytest.FixtureRequest) -> Iterator[Memory]:
        memory = Cpu(self.CAPACITY, request.param).start()
        yield memory
        memory.close()

    def view(self, slot: Any) -> Buffer:
        view: Buffer = slot.bytes
        return view

    def check(self, slot: Any) -> None:
        slot.check()


@dataclass(eq=False)
class Growing(PagePool):
    """Takes a slab when it needs one, as the tier does."""

    def take(self, namespace: bytes, nbytes: int) -> Any:
        slot = super().take(namespace, nbytes)
        if slot is None and self.grow(namespace, nbytes):
            slot = super().take(namespace, nbytes)
        return slot


class TestGpu(MemoryTests):
    @pytest.fixture(params=[GRANULE, pytest.param(4 * GRANULE, marks=pytest.mark.slow)])
    def memory(self, request: pytest.FixtureRequest) -> Iterator[Memory]:
        memory = Growing(HostMemory(), self.CAPACITY, request.param)
        yield memory
        memory.close()

    def view(self, slot: Any) -> Buffer:
        view: Buffer = slot.tensor.numpy()
        return view

    def check(self, slot: Any) -> None:
        check_generation(slot.slab.words, slot.offset, slot.generation)
