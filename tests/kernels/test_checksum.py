"""Checksums on the device: naive and fused against xxhash, or, where it is not installed, fused against naive."""

from importlib.util import find_spec

import pytest
import torch

from cachestore_kernels.checksum import checksum_pages, checksum_planes
from cachestore_kernels.paged import gather


def expected(planes: torch.Tensor) -> list[int]:
    if not find_spec("xxhash"):
        return checksum_planes(planes.cpu().contiguous().view(torch.uint8), method="naive").tolist()
    import xxhash

    return [xxhash.xxh3_64_intdigest(plane.cpu().contiguous().view(torch.uint8).numpy().tobytes()) for plane in planes]


SLOW = (256, 960, 1032, 2048, 4096, 1 << 17)


@pytest.mark.parametrize("method", ["naive", "fused"])
@pytest.mark.parametrize("size", [248, 1024, 1088, 5192, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_planes(size: int, method: str, device: str, poisoned_memory: None) -> None:
    planes = torch.randint(256, (3, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size)).to(device)
    assert checksum_planes(planes, method=method).tolist() == expected(planes)


@pytest.mark.parametrize("method", ["naive", "fused"])
@pytest.mark.parametrize(
    ("layout", "dim"),
    [
        ("joined", 20),
        ("tokens", 64),
        *(
            pytest.param(layout, dim, marks=pytest.mark.slow)
            for layout in ("heads", "tokens", "joined")
            for dim in (4, 16, 96)
        ),
    ],
)
def test_pages(layout: str, dim: int, method: str, device: str, poisoned_memory: None) -> None:
    shape = {"heads": (6, 4, 16, dim), "tokens": (6, 16, 4, dim), "joined": (6, 4, 16, 2 * dim)}[layout]
    memory = [torch.randn(shape).half().to(device) for _ in range(4)]
    if layout == "joined":
        keys, values = zip(*(pool.chunk(2, dim=3) for pool in memory[:2]), strict=True)
    else:
        views = [pool.transpose(1, 2) if layout == "tokens" else pool for pool in memory]
        keys, values = tuple(views[:2]), tuple(views[2:])
    pages = torch.tensor([[1, 3], [5, 0]], device=device)
    heads = range(2, 4)
    planes = gather(keys, values, pages, heads, method="naive")
    for head_groups in (1, 2):
        sums = checksum_pages(keys, values, pages, heads, head_groups=head_groups, method=method)
        assert sums.shape == (2, 2, 2, head_groups)
        assert sums.flatten().tolist() == expected(planes.view(8 * head_groups, -1))


def test_a_changed_bit_shows(device: str) -> None:
    planes = torch.zeros(2, 4096, dtype=torch.uint8, device=device)
    planes[1, 4095] = 1
    first, second = checksum_planes(planes, method="fused").tolist()
    assert first != second


def test_pages_outside_the_pool(device: str) -> None:
    pool = [torch.randn(2, 1, 16, 64).half().to(device)]
    sums = checksum_pages(pool, pool, torch.tensor([7], device=device), method="fused")
    assert sums.flatten().tolist() == expected(torch.zeros(2, 2048, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"outside \[0, 2\)"):
        checksum_pages(pool, pool, torch.tensor([7], device=device), method="naive")


def test_refuses() -> None:
    with pytest.raises(ValueError, match="more than 240 bytes"):
        checksum_planes(torch.zeros(2, 240, dtype=torch.uint8))
    with pytest.raises(ValueError, match="multiples of 8"):
        checksum_planes(torch.zeros(2, 241, dtype=torch.uint8))
    with pytest.raises(ValueError, match="contiguous"):
        checksum_planes(torch.zeros(2, 2, 256, dtype=torch.uint8).transpose(0, 1))
    with pytest.raises(ValueError, match="head_groups: a divisor of 2"):
        checksum_pages([torch.zeros(2, 2, 16, 64)], [torch.zeros(2, 2, 16, 64)], torch.tensor([0]), head_groups=3)
    assert checksum_planes(torch.zeros(0, 256)).tolist() == []
