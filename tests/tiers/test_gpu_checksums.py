"""Checksums of pages by kernels, naive and fused: those of xxhash, and a tier that holds to them."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch

from cachestore.eviction.lru import Lru
from cachestore.seal import checksum
from cachestore.testing import sealed_block
from cachestore.testing.tiers import KEYS, A, departed, soon
from cachestore.tiers.gpu import Gpu
from cachestore.tiers.gpu_blocks import page_checksums
from cachestore.tiers.gpu_tier import GpuTier
from cachestore_kernels.method import Method
from tests.kernels.conftest import interpreting

F = b"f" * 32


@pytest.fixture(params=["naive", "fused"])
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    with interpreting():
        yield request.param


@pytest.fixture
def tier(method: Method) -> Iterator[GpuTier]:
    tier = Gpu(capacity=16 << 20, device="cpu").start(Lru())
    tier.checksums = partial(page_checksums, method=method)
    tier.open(departed)
    yield tier
    tier.close()


# runs of one size, planes too short for the kernel, lengths it does not take, and what they push out of line
@pytest.mark.parametrize("sizes", [[320, 320, 1088], [256, 7, 256], [240, 248, 249], [1]])
def test_all_forms_give_what_xxhash_gives(sizes: list[int], method: Method) -> None:
    page = torch.randint(256, (sum(sizes),), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    wanted = [checksum(plane.numpy()) for plane in page.split(sizes)]
    assert page_checksums(page, sizes) == wanted and page_checksums(page, sizes, method) == wanted


def test_a_tier_hands_out_what_holds_and_drops_what_does_not(tier: GpuTier) -> None:
    blocks = [(key, sealed_block(A, key, 4096, seed=number)) for number, key in enumerate(KEYS[:2])]
    assert tier.put_many(A, blocks, None, soon()) == [True, True]
    first, second = tier.pages(A, F, KEYS[:2], soon())
    assert first is not None and second is not None
    second.tensor[100] ^= 1
    first.release()
    second.release()
    again, broken = tier.pages(A, F, KEYS[:2], soon())
    assert again is not None and broken is None
    again.release()
    assert tier.present(A, KEYS[:2], soon()) == [True, False]
