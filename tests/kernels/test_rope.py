"""Keys turned on their way into pages: fused against the oracle bit for bit, the oracle against rotary embedding."""

from dataclasses import dataclass

import pytest
import torch

from cachestore_kernels.paged import gather
from cachestore_kernels.rope import Style, scatter_shifted

INTEGERS = {2: torch.int16, 4: torch.int32}


@dataclass(frozen=True)
class Case:
    style: Style = "half"
    dim: int = 64
    pairs: int = 32
    tokens: int = 16
    each: int = 2
    layout: str = "heads"
    dtype: torch.dtype = torch.float16


FAST = [
    Case(),
    Case("interleaved", layout="tokens", dtype=torch.float32),
    Case("half", 80, 12, tokens=5, each=1, layout="joined"),
    Case("interleaved", 24, 5, tokens=7, layout="joined"),
]
SLOW = [
    *(
        Case(style, dim, pairs, 16, 1)
        for style in ("half", "interleaved")
        for dim, pairs in ((128, 64), (256, 32), (2, 1))
    ),
    *(Case(style, 96, 48, 3, 3, "tokens", torch.float32) for style in ("half", "interleaved")),
    *(Case(style, 128, 64, dtype=torch.bfloat16) for style in ("half", "interleaved")),
]


def frequencies(pairs: int) -> torch.Tensor:
    return 10000.0 ** -(torch.arange(pairs) / pairs)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view(INTEGERS[tensor.element_size()])


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)], ids=str)
def test_fused_equals_naive(case: Case, device: str) -> None:
    if case.dtype == torch.bfloat16 and device == "cpu":
        pytest.skip("the interpreter rounds to bfloat16 in a way of its own")
    random = torch.Generator().manual_seed(case.dim)
    block_tokens = case.tokens * case.each
    blocks = torch.randn(2, 2, 2, 2, block_tokens, case.dim, generator=random).to(case.dtype)
    # what stays is moved as bits: infinities, NaNs with a payload
    blocks[0, 0, 1, 0, 0, 0] = torch.inf
    bits_of = blocks.view(INTEGERS[blocks.element_size()])
    bits_of[0, 1, 1, 1, 1] = bits_of.new_tensor(torch.iinfo(bits_of.dtype).max - 5)
    bits_of[1, 1, 0, 1, 0] = bits_of.new_tensor(torch.iinfo(bits_of.dtype).max - 7)
    blocks = blocks.to(device)
    shifts = torch.randint(-5000, 100_000, (2, block_tokens), generator=random).to(device)
    shifts[1, 0] = 0
    pages = torch.tensor([5, 0, 3, 2, 4, 1][: 2 * case.each], device=device).view(2, case.each)
    results = []
    for method in ("naive", "fused"):
        shape = (6, 4, case.tokens, 2 * case.dim)
        memory = [torch.full(shape, 7.0, device=device).to(case.dtype) for _ in range(4)]
        pools = [pool.chunk(2, dim=3)[0] if case.layout == "joined" else pool[..., : case.dim] for pool in memory]
        if case.layout == "tokens":
            memory = [torch.full((6, case.tokens, 4, case.dim), 7.0, device=device).to(case.dtype) for _ in range(4)]
            pools = [pool.transpose(1, 2) for pool in memory]
        where = pools[:2], pools[2:], pages, range(1, 3)
        rotary = {"shifts": shifts, "frequencies": frequencies(case.pairs).to(device), "style": case.style}
        scatter_shifted(blocks, *where, **rotary, method=method)
        results.append(memory)
        back = gather(*where, method="naive")
        assert torch.equal(bits(back[:, :, 1]), bits(blocks[:, :, 1])), "values moved as they are"
        assert torch.equal(bits(back[1, :, 0, :, 0]), bits(blocks[1, :, 0, :, 0])), "a token that did not move"
        assert torch.equal(bits(back[..., 2 * case.pairs :]), bits(blocks[..., 2 * case.pairs :])), "partial rotary"
    for one, two in zip(*results, strict=True):
        assert torch.equal(bits(one), bits(two))


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_naive_moves_keys_to_where_they_would_have_been(style: Style) -> None:
    """A key turned for position 1000 and shifted by -970 is the key turned for position 30."""
    pairs = 8
    plain = torch.randn(1, 1, 1, 1, 4, 20, dtype=torch.float64)

    def at(position: int) -> torch.Tensor:
        angles = (position + torch.arange(4.0, dtype=torch.float64))[:, None] * frequencies(pairs).double()
        keys = plain.clone()
        if style == "half":
            pair = torch.complex(plain[..., :pairs], plain[..., pairs : 2 * pairs])
        else:
            pair = torch.view_as_complex(plain[..., : 2 * pairs].unflatten(-1, (pairs, 2)))
        turned = pair * torch.polar(torch.ones_like(angles), angles)
        parts = (turned.real, turned.imag)
        keys[..., : 2 * pairs] = torch.cat(parts, -1) if style == "half" else torch.stack(parts, -1).flatten(-2)
        return keys

    blocks = torch.cat([at(1000), plain], 2).float().contiguous()
    keys, values = torch.zeros(1, 1, 4, 20), torch.zeros(1, 1, 4, 20)
    scatter_shifted(
        blocks,
        [keys],
        [values],
        torch.tensor([0]),
        shifts=torch.full((1, 4), -970),
        frequencies=frequencies(pairs),
        style=style,
    )
    torch.testing.assert_close(keys[0, 0], at(30)[0, 0, 0, 0].float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, r"shifts: int64.*shifts.long\(\)", dict(shifts=torch.zeros(1, 4).int())),
        (ValueError, r"shifts: \[blocks, tokens\] is \[1, 4\]", dict(shifts=torch.zeros(4).long())),
        (TypeError, "frequencies: floats", dict(frequencies=torch.ones(2).long())),
        (ValueError, "frequencies: 1 to 4 of them", dict(frequencies=torch.ones(5))),
        (ValueError, "frequencies: on meta", dict(frequencies=torch.ones(4, device="meta"))),
        (ValueError, "style: 'half' or", dict(style="neox")),
        (TypeError, "blocks: the pools' dtype", dict(blocks=torch.zeros(1, 1, 2, 1, 4, 8).double())),
    ],
)
def test_wrong_arguments(kind: type[Exception], message: str, arguments: dict[str, object]) -> None:
    pool = [torch.zeros(2, 1, 4, 8)]
    good: dict[str, object] = dict(
        blocks=torch.zeros(1, 1, 2, 1, 4, 8), keys=pool, values=pool, pages=torch.tensor([0])
    )
    good |= dict(shifts=torch.zeros(1, 4).long(), frequencies=torch.ones(4))
    with pytest.raises(kind, match=message):
        scatter_shifted(**{**good, **arguments})  # type: ignore[arg-type]
