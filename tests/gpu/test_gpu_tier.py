"""The gpu tier on a CUDA device: the same contract, bytes and lifetimes as on the host."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cachestore.block import Half, PlaneId
from cachestore.errors import Mismatch
from cachestore.eviction.lru import Lru
from cachestore.seal import Header
from cachestore.testing import TierTests, sealed_block
from cachestore.testing.tiers import KEYS, A, B, departed, soon
from cachestore.tiers.base import ColdTier
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_memory import GRANULE
from cachestore.tiers.gpu_sharing import attach
from cachestore.tiers.gpu_tier import GpuTier

pytestmark = pytest.mark.gpu

F = b"f" * 32


@pytest.fixture
def tier() -> Iterator[GpuTier]:
    tier = Gpu(capacity=64 << 20, device="cuda").start(Lru())
    tier.open(departed)
    yield tier
    tier.close()


class TestConformance(TierTests):
    @pytest.fixture
    def tier(self) -> Iterator[ColdTier]:
        tier = Gpu(capacity=64 << 20, device="cuda").start(Lru())
        tier.open(departed)
        yield tier
        tier.close()


def test_device_blocks_come_back_bit_by_bit(tier: GpuTier) -> None:
    raw = torch.randint(0, 256, (1 << 20,), dtype=torch.uint8, device="cuda")
    planes = tuple(PlaneId(slot, Half.K, 0, 2, 1 << 18) for slot in range(4))
    # computed on the caller's stream, and not waited for
    tensor = (raw ^ 0).view(torch.bfloat16).view(512, -1)
    assert tier.put_pages(A, F, [DeviceBlock(KEYS[0], 64, planes, tensor)], soon()) == [True]
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None and page.tensor.is_cuda and torch.equal(page.tensor, raw)
    page.release()
    (found,) = tier.get_many(A, KEYS[:1], soon())
    assert isinstance(found, np.ndarray)
    header = Header.parse(found)
    assert np.array_equal(found[header.size :], raw.cpu().numpy())


def test_the_device_gets_its_memory_back(tier: GpuTier) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info()[0]
    assert all(tier.put_many(A, [(key, sealed_block(A, key, 4 << 20)) for key in KEYS], None, soon()))
    assert before - torch.cuda.mem_get_info()[0] >= 32 << 20
    tier.close()
    assert torch.cuda.mem_get_info()[0] >= before - GRANULE


def test_what_a_reader_has_queued_is_done_before_its_page_is_reused(tier: GpuTier) -> None:
    tier.put_many(A, [(KEYS[0], sealed_block(A, KEYS[0], 1 << 20, seed=1))], None, soon())
    (page,) = tier.pages(A, F, KEYS[:1], soon())
    assert page is not None
    expected = page.tensor.clone()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late = page.tensor.clone()
        page.release()
    tier.clear(A, soon())
    tier.put_many(A, [(KEYS[1], sealed_block(A, KEYS[1], 1 << 20, seed=2))], None, soon())
    stream.synchronize()
    assert torch.equal(late, expected)


def test_a_device_without_memory_refuses_and_goes_on() -> None:
    free = torch.cuda.mem_get_info()[0]
    tier = Gpu(capacity=2 * free, device="cuda", slab=free // 2 + free // 4).start(Lru())
    tier.open(departed)
    try:
        assert tier.put_many(A, [(KEYS[0], sealed_block(A, KEYS[0]))], None, soon()) == [True]
        assert tier.put_many(B, [(KEYS[0], sealed_block(B, KEYS[0]))], None, soon()) == [False]
        assert tier.healthy and tier.present(A, KEYS[:1], soon()) == [True]
    finally:
        tier.close()


def test_a_device_that_this_process_does_not_see(tier: GpuTier) -> None:
    tier.put_many(A, [(KEYS[0], sealed_block(A, KEYS[0]))], None, soon())
    with tier.export(A) as export:
        (handle,) = export.handles
        with pytest.raises(Mismatch, match="CUDA_VISIBLE_DEVICES"):
            attach(replace(handle, device="another", words=os.dup(handle.words)))
