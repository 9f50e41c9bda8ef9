"""Quantisation on the way: the fused kernels against the oracle, bit for bit."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from cachestore_kernels.quant import FORMS, GROUPS, Form, Quantised, gather_quantised, peaks, scatter_dequantised

INTEGERS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Case:
    form: Form = "int8"
    group: int = 64
    tokens: int = 16
    each: int = 2
    dim: int = 64
    dtype: torch.dtype = torch.float16
    exponents: bool = False


FAST = [
    Case("int8", 32, dim=40, exponents=True),
    Case("int4", 64, tokens=17, each=1, dim=24, dtype=torch.float32),
    Case("e4m3", 32, dim=36),
    Case("e5m2", 128, tokens=7, dim=33),
]
SLOW = [
    *(Case(form, group, 64, 1, 128, exponents=True) for form, group in product(FORMS, GROUPS)),
    *(Case(form, 32, tokens, 3, dim, torch.float32) for form in FORMS for tokens, dim in ((1, 2), (5, 40), (16, 256))),
    *(Case(form, dtype=torch.bfloat16) for form in FORMS),
]
table = pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bit patterns, of which all NaNs have one."""
    tensor = tensor.cpu().contiguous()
    return tensor if tensor.dtype == torch.uint8 else tensor.nan_to_num(nan=torch.nan).view(INTEGERS[tensor.itemsize])


def pools(case: Case, device: str) -> list[torch.Tensor]:
    """K and V of two slots, tokens before heads: huge and tiny planes, zeros, constants, infinities and NaNs."""
    random = torch.Generator().manual_seed(case.dim)
    made = [torch.randn(7, case.tokens, 3, case.dim, generator=random) * 3 for _ in range(4)]
    made[0][1, :, 0] = 0
    made[0][2, 0, 1, 0] = torch.nan
    made[1][2, 0, 1] = 0.1
    made[2] *= 1e-6
    made[3][4, 0, 0, 1] = torch.inf
    return [pool.to(case.dtype).to(device).transpose(1, 2) for pool in made]


@table
def test_fused_equals_naive(case: Case, device: str, poisoned_memory: None) -> None:
    made = pools(case, device)
    pages = torch.tensor([2, 0, 4, 1, 5, 3][: 6 // case.each * case.each], device=device).view(-1, case.each)
    exponents = None
    if case.exponents:
        exponents = torch.randint(-4, 5, (len(pages), 2, 2), dtype=torch.int32).to(device)
    where = made[:2], made[2:], pages, range(1, 3)
    one, two = (
        gather_quantised(*where, form=case.form, group=case.group, exponents=exponents, method=method)
        for method in ("naive", "fused")
    )
    for name in Quantised._fields[2:]:
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(bits(a), bits(b)), name
    if case.dtype == torch.bfloat16 and device == "cpu":
        return  # the interpreter rounds to bfloat16 in a way of its own
    backs = [[torch.full_like(pool, 7) for pool in made] for _ in range(2)]
    for back, method in zip(backs, ("naive", "fused"), strict=True):
        scatter_dequantised(one, back[:2], back[2:], pages, range(1, 3), exponents=exponents, method=method)
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(*backs, strict=True))


@pytest.mark.parametrize("case", [FAST[0], FAST[3], Case(dtype=torch.bfloat16, dim=24)], ids=str)
def test_peaks_are_the_largest_magnitudes(case: Case, device: str, poisoned_memory: None) -> None:
    made = pools(case, device)
    pages = torch.tensor([2, 0, 4, 1, 5, 3], device=device).view(-1, case.each)
    where = made[:2], made[2:], pages, range(1, 3)
    naive, fused = (peaks(*where, method=method) for method in ("naive", "fused"))
    assert torch.equal(bits(naive), bits(fused))
    assert naive[0, 0, 0].isnan() and naive[~naive.isnan()].max() < 20 and (naive[:, 0, 1] < 1e-4).all()


@pytest.mark.parametrize("form", FORMS)
def test_ties_and_zeros_of_both_signs(form: Form, device: str, poisoned_memory: None) -> None:
    """Values in the middle between codes, which go to the even one, beside -0 and beside one float more or less."""
    steps = torch.arange(64, dtype=torch.float32)[:, None] + torch.tensor([0.0, 0.5, 0.5, 0.5])
    steps[:, 1:] += torch.tensor([0.0, 1e-6, -1e-6]) * steps[:, 1:]
    steps = torch.cat([steps, -steps, steps * 3 / 64, steps * 4], 1)  # [tokens, 16]
    scales = torch.tensor([1.0, 0.0999755859375, 2.0**-20, 129.0])
    pool = (steps * scales[:, None, None]).view(4, 1, 64, 16).to(device)
    where = [pool], [pool], torch.arange(4, device=device)
    one, two = (gather_quantised(*where, form=form, method=method) for method in ("naive", "fused"))
    assert all(
        torch.equal(bits(a), bits(b)) for a, b in zip(one[2:], two[2:], strict=True) if a is not None and b is not None
    )


def test_groups_come_back_near_and_whole() -> None:
    """Half a step, a group with an infinity as NaN, and its neighbours as if it were not there."""
    keys = torch.randn(1, 1, 64, 32)
    keys[0, 0, 3, 5] = torch.inf
    back = torch.zeros_like(keys)
    pages = torch.tensor([0])
    codes = gather_quantised([keys], [keys], pages, form="int8", group=32, method="naive")
    scatter_dequantised(codes, [back], [torch.zeros_like(back)], pages, method="naive")
    assert back[0, 0, :32, 5].isnan().all()
    back[0, 0, :32, 5] = keys[0, 0, :32, 5]
    step = codes.key_scales[0, 0, 0].float().repeat_interleave(32, 0)
    step[:32, 5] = 0
    assert ((back - keys).nan_to_num(0)[0, 0].abs() <= step * 0.5001).all()


POOL, IDS = [torch.zeros(2, 2, 16, 33).half()], torch.tensor([0])


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (ValueError, "form: one of int8", dict(form="int3")),
        (ValueError, "group: one of 32", dict(group=48)),
        (ValueError, "form: int4 packs pairs", dict(form="int4")),
        (TypeError, "exponents: int32", dict(exponents=torch.zeros(1, 1, 2))),
        (ValueError, r"exponents: \[1, 1, 2\]", dict(exponents=torch.zeros(1, 2, dtype=torch.int32))),
        (TypeError, r"keys\[0\]: float16", dict(keys=[POOL[0].byte()], values=[POOL[0].byte()])),
    ],
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    good: dict[str, object] = dict(keys=POOL, values=POOL, pages=IDS, form="int8")
    with pytest.raises(kind, match=message):
        gather_quantised(**{**good, **arguments})  # type: ignore[arg-type]


def test_quantised_that_does_not_fit() -> None:
    codes = gather_quantised(POOL, POOL, IDS, form="int8")
    for field, wrong, kind in (
        ("codes", codes.codes.half(), TypeError),
        ("key_scales", codes.key_scales[..., :-1], ValueError),
        ("value_zeros", None, TypeError),
    ):
        with pytest.raises(kind, match=f"{field}:"):
            scatter_dequantised(codes._replace(**{field: wrong}), POOL, POOL, IDS)
