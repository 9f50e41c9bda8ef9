"""Blocks coded where their pages are: the bytes of the codec itself, by kernels naive and fused, and back."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Half, Slot
from cachestore.codecs import create
from cachestore.codecs.base import RAW, Codec
from cachestore.codecs.entropy import Entropy
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.lz4 import Lz4
from cachestore.codecs.pages import decode_pages, encode_pages
from cachestore_kernels.method import Method
from tests.kernels.conftest import interpreting

SPEC = BlockSpec("org/model", "1" * 40, "float16", (Slot(2, 32, 32),), 2, block_tokens=40)
PAGES = [3, 0]
NOISE = 0
"""The page that no lossless code makes much smaller."""


@pytest.fixture(scope="module", params=["naive", "fused"])
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    with interpreting():
        yield request.param


def pools_of(spec: BlockSpec, seed: int = 0) -> dict[tuple[int, Half], torch.Tensor]:
    """Tokens before heads in memory, so that a plane is no one piece; keys and values of different magnitudes."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for number, slot in enumerate(spec.slots):
        for half, dim in ((Half.K, slot.key_dim), (Half.V, slot.value_dim)):
            if dim:
                values = torch.randn(4, spec.block_tokens, slot.kv_heads, dim, generator=random)
                values[NOISE + 1 :] = values[NOISE + 1 :].round()
                found[number, half] = (values * 10.0 ** (-3 * half)).to(getattr(torch, spec.dtype)).transpose(1, 2)
    return found


def check_both_ways(
    codec: Codec, spec: BlockSpec, method: Method | None, codecs: set[int], device: str = "cpu"
) -> None:
    """What kernels write is what the codec writes, each reads the other's, and nothing else is touched."""
    pools = {place: pool.to(device) for place, pool in pools_of(spec).items()}
    pages = torch.tensor(PAGES, device=device)
    hosts = {place: pool.cpu() for place, pool in pools.items()}
    wanted = encode_pages(codec, spec, hosts, torch.tensor(PAGES))
    found = encode_pages(codec, spec, pools, pages, method=method)
    assert {plane.codec for block in wanted for plane in block} == codecs
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.array_equal(one.stored, other.stored) and one[:1] + one[2:] == other[:1] + other[2:]
    # NaN where nothing is written
    filled, plain = ({place: torch.full_like(pool, torch.nan) for place, pool in pools_of(spec).items()} for _ in "12")
    there = {place: pool.to(device) for place, pool in filled.items()}
    assert decode_pages(spec, there, pages, wanted, method=method) == [True] * len(PAGES)
    assert decode_pages(spec, plain, torch.tensor(PAGES), found) == [True] * len(PAGES)
    for place, pool in plain.items():
        assert torch.equal(there[place].cpu().view(torch.uint8), pool.view(torch.uint8))
        assert pool[[1, 2]].isnan().all()


@pytest.mark.parametrize(
    "recipe",
    [
        "int8,group=32",
        *(pytest.param(rest, marks=pytest.mark.slow) for rest in ("int4,group=64", "fp8,format=e4m3,group=32")),
        pytest.param("fp8,format=e5m2,group=128", marks=pytest.mark.slow),
    ],
)
def test_lossy_planes(recipe: str, method: Method) -> None:
    spec = replace(SPEC, recipe=f"quantisation={recipe}")
    codec = codec_for(spec)
    assert codec is not None
    check_both_ways(codec, spec, method, {codec.id})


@pytest.mark.parametrize("codec", [Entropy(), Lz4()], ids=["entropy", "lz4"])
def test_lossless_planes(codec: Codec, method: Method) -> None:
    check_both_ways(codec, SPEC, method, {codec.id} if isinstance(codec, Entropy) else {RAW, codec.id})


# what kernels do not take beside what they do: K alone, V of another width, groups and widths without a kernel
@pytest.mark.parametrize(
    ("recipe", "slots"),
    [
        ("int8,group=32", (Slot(2, 32, 32), Slot(2, 32, 0), Slot(2, 32, 24), Slot(4, 32, 32), Slot(2, 32, 32))),
        ("int8,group=48", (Slot(2, 32, 32),)),
        ("int4,group=32", (Slot(2, 33, 33),)),
    ],
)
def test_what_is_the_hosts(recipe: str, slots: tuple[Slot, ...]) -> None:
    spec = replace(SPEC, slots=slots, recipe=f"quantisation={recipe}")
    codec = codec_for(spec)
    assert codec is not None
    check_both_ways(codec, spec, "naive", {codec.id})
    check_both_ways(create("entropy"), replace(spec, recipe=""), "naive", {2})


def test_a_block_with_an_infinity_is_stored_as_the_codec_stores_it() -> None:
    spec = replace(SPEC, recipe="quantisation=int8,group=32")
    codec, pools, pages = codec_for(spec), pools_of(spec), torch.tensor([0, 1, 2, 3])
    assert codec is not None
    pools[0, Half.V][0, 1, 7, 5] = torch.inf
    pools[0, Half.K][1, 0, 0, 0] = torch.nan
    pools[0, Half.V][3, 0, 0, 0] = 2.0**14 + 32
    found = encode_pages(codec, spec, pools, pages, method="naive")
    assert [[plane.codec for plane in block].count(RAW) for block in found] == [1, 1, 0, 1]
    back = {place: torch.zeros_like(pool) for place, pool in pools.items()}
    assert decode_pages(spec, back, pages, found, method="naive") == [True] * 4
    assert back[0, Half.V][0, 1, 7, 5].isinf() and back[0, Half.K][1, 0, 0, 0].isnan()


@pytest.mark.parametrize("name", ["int8", "entropy", "lz4"])
def test_wrong_bytes_never_hold(name: str) -> None:
    recipe = "" if name in ("entropy", "lz4") else f"quantisation={name},group=32"
    spec = replace(SPEC, recipe=recipe)
    codec, pools, pages = codec_for(spec) or create(name), pools_of(spec), torch.tensor(PAGES)
    blocks = encode_pages(codec, spec, pools, pages, method="naive")
    random = np.random.default_rng(1)
    for _ in range(8):
        at, plane = random.integers(len(blocks)), random.integers(len(blocks[0]))
        good = blocks[at][plane]
        stored = good.stored.copy()
        reach = 24 if random.random() < 0.5 else stored.size
        stored[random.integers(reach)] ^= 1 << random.integers(8)
        for wrong in (good._replace(stored=stored), good._replace(stored=good.stored[:-1])):
            broken = [[*block] for block in blocks]
            broken[at][plane] = wrong
            held = decode_pages(spec, pools_of(spec, 1), pages, broken, method="naive")
            assert held == [number != at for number in range(len(blocks))]
