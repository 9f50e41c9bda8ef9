"""Exponents taken apart and packed: the fused kernels against the oracle, and both against the bits that went in."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from cachestore_kernels.shuffle import (
    GROUP,
    Packed,
    Split,
    gather_packed,
    gather_split,
    scatter_packed,
    scatter_split,
)


@dataclass(frozen=True)
class Case:
    dim: int = 64
    tokens: int = 16
    each: int = 2
    dtype: torch.dtype = torch.bfloat16
    layout: str = "tokens"
    width: int | None = None


FAST = [
    Case(40, 16, 5, layout="joined"),
    Case(17, 7, 1, torch.float16),
    Case(5, 1, 3, width=1),
]
SLOW = [
    *(Case(dim, 64, 1, dtype, layout) for dim, dtype, layout in product(
        (64, 128), (torch.bfloat16, torch.float16), ("heads", "tokens", "joined"))),
    *(Case(dim, tokens, 3, width=width) for dim, tokens, width in ((1, 64, 2), (256, 16, 7), (96, 33, 4))),
]  # fmt: skip
table = pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)


def pools(case: Case, device: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """K and V of two slots: channels of all magnitudes, zeros, constants, infinities, NaN payloads, subnormals."""
    random = torch.Generator().manual_seed(case.dim)
    shape = (7, case.tokens, 3, case.dim) if case.layout == "tokens" else (7, 3, case.tokens, case.dim)
    made = []
    for number in range(4):
        scales = torch.randint(-12, 5, (case.dim,), generator=random)
        pool = torch.randn(shape, generator=random).ldexp(scales).to(case.dtype)
        bits = pool.view(torch.int16)
        bits[1, 0] = 0
        bits[2, ..., 0] = 0x7FC1 - number  # NaNs of several payloads, and what is next to them
        bits[3, 0, 0, : 1 + number] = -1 - number
        bits[5, -1, -1] = 1 << number
        made.append(pool.transpose(1, 2) if case.layout == "tokens" else pool)
    made = [pool.to(device) for pool in made]
    if case.layout == "joined":
        both = [torch.cat(pair, 3).chunk(2, dim=3) for pair in (made[:2], made[2:])]
        return [k for k, _ in both], [v for _, v in both]
    return made[:2], made[2:]


def ids(case: Case, device: str) -> torch.Tensor:
    return torch.tensor([2, 0, 4, 1, 5, 3][: 6 // case.each * case.each], device=device).view(-1, case.each)


def bits(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.contiguous().view(torch.int16) for tensor in tensors]


def equal(one: Split | Packed, two: Split | Packed) -> None:
    for name in one._fields:
        a, b = getattr(one, name), getattr(two, name)
        assert a == b if isinstance(a, int) else torch.equal(a, b), name


@table
def test_split_and_back(case: Case, device: str, poisoned_memory: None) -> None:
    keys, values = pools(case, device)
    where = keys, values, ids(case, device), range(1, 3)
    naive, fused = (gather_split(*where, method=method) for method in ("naive", "fused"))
    equal(naive, fused)
    back = [[torch.full_like(pool, 7) for pool in (*keys, *values)] for _ in range(2)]
    for pages, method in zip(back, ("naive", "fused"), strict=True):
        scatter_split(naive, pages[:2], pages[2:], *where[2:], method=method)
    expect(back, case, [*keys, *values], where[2])


@table
def test_packed_and_back(case: Case, device: str, poisoned_memory: None) -> None:
    keys, values = pools(case, device)
    where = keys, values, ids(case, device), range(1, 3)
    room = GROUP * case.dim
    naive, fused = (gather_packed(*where, width=case.width, room=room, method=method) for method in ("naive", "fused"))
    equal(naive, fused)
    assert naive.whole().all()
    back = [[torch.full_like(pool, 7) for pool in (*keys, *values)] for _ in range(2)]
    for pages, method in zip(back, ("naive", "fused"), strict=True):
        scatter_packed(naive, pages[:2], pages[2:], *where[2:], method=method)
    expect(back, case, [*keys, *values], where[2])


def expect(back: list[list[torch.Tensor]], case: Case, came: list[torch.Tensor], pages: torch.Tensor) -> None:
    """What was named is back bit for bit, and nothing else was written."""
    for pool, one, two in zip(bits(came), *map(bits, back), strict=True):
        wanted = torch.full_like(came[0], 7).contiguous().view(torch.int16)
        wanted[pages.flatten(), 1:3] = pool[pages.flatten(), 1:3]
        assert torch.equal(one, wanted) and torch.equal(two, wanted)


def test_what_does_not_fit_is_told_and_never_written(device: str, poisoned_memory: None) -> None:
    pool = torch.full((2, 1, GROUP, 16), 1.0, dtype=torch.bfloat16, device=device)
    pool[0, 0, 3] = 2.0**-40
    pages = torch.tensor([0, 1], device=device)
    naive, fused = (
        gather_packed([pool], [pool], pages, width=3, room=10, method=method) for method in ("naive", "fused")
    )
    equal(naive, fused)
    assert naive.whole().tolist() == [False, True] and naive.counts[0].flatten().tolist() == [16, 16]
    back = [torch.zeros_like(pool) for _ in range(2)]
    with pytest.raises(ValueError, match="counts: a group has more escapes than the room of 10"):
        scatter_packed(naive, [back[0]], [back[1]], pages, method="naive")
    scatter_packed(naive, [back[0]], [back[1]], pages, method="fused")
    assert not back[0][0].any() and torch.equal(back[0][1], pool[1])


def test_bytes_that_no_coder_wrote_do_no_harm(device: str, poisoned_memory: None) -> None:
    """Codes that all escape with counts that deny it: any values, the same in naive and fused."""
    pool = torch.zeros(1, 2, 20, 24, dtype=torch.float16, device=device)
    page = torch.tensor([0], device=device)
    packed = gather_packed([pool], [pool], page, room=3, method="naive")
    for part in packed[1:5]:
        part.fill_(255)
    one, two = ([torch.zeros_like(pool) for _ in range(2)] for _ in range(2))
    scatter_packed(packed, one[:1], one[1:], page, method="naive")
    scatter_packed(packed, two[:1], two[1:], page, method="fused")
    assert all(torch.equal(a, b) for a, b in zip(bits(one), bits(two), strict=True))


def test_a_quarter_less_for_what_models_make() -> None:
    """Channels each of their own magnitude, tokens normal around it."""
    random = torch.Generator().manual_seed(1)
    pool = torch.randn(4, 2, 64, 128, generator=random) * torch.randn(2, 1, 128, generator=random).exp()
    for dtype, share in ((torch.bfloat16, 0.74), (torch.float16, 0.94)):
        packed = gather_packed([pool.to(dtype)], [pool.to(dtype)], torch.arange(4))
        assert packed.whole().all()
        assert sum(part.nbytes for part in packed[1:]) <= share * 2 * pool.numel() * 2


POOL, PAGE = [torch.zeros(2, 2, 16, 24).half()], torch.tensor([0])


LONG = torch.zeros(1, 1, 1, 576).half()


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (ValueError, "width: 1 to 7", dict(width=8)),
        (ValueError, "room: 1 to 768", dict(room=0)),
        (ValueError, "out: made for width 6", dict(width=3, out=gather_packed(POOL, POOL, PAGE))),
        (ValueError, "up to 512 channels", dict(keys=[LONG], values=[LONG])),
        (TypeError, r"keys\[0\]: float16 or bfloat16", dict(keys=[POOL[0].float()], values=[POOL[0].float()])),
    ],
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    good: dict[str, object] = dict(keys=POOL, values=POOL, pages=PAGE)
    with pytest.raises(kind, match=message):
        gather_packed(**{**good, **arguments})  # type: ignore[arg-type]


def test_parts_that_do_not_fit() -> None:
    packed, split = gather_packed(POOL, POOL, PAGE), gather_split(POOL, POOL, PAGE)
    for field, wrong, kind in (
        ("codes", packed.codes[..., :-1], ValueError),
        ("counts", packed.counts.long(), TypeError),
        ("width", 5, ValueError),
    ):
        with pytest.raises(kind, match="codes" if field == "width" else field):
            scatter_packed(packed._replace(**{field: wrong}), POOL, POOL, PAGE)
    with pytest.raises(TypeError, match=r"mantissas: torch\.uint8"):
        scatter_split(split._replace(mantissas=split.mantissas.char()), POOL, POOL, PAGE)
