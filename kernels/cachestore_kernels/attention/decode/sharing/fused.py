"""What a program's share of a sequence is, what it leaves behind, and how that is put together."""

from typing import Final

import triton
import triton.language as tl

from cachestore_kernels.attention.fused import LOWEST

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether these functions run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


@triton.jit  # type: ignore[untyped-decorator]
def share_of(
    stop: tl.tensor, splits: tl.tensor, WINDOW: tl.constexpr, TILE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The first token that is seen at all, and the first tile of this program's and the first behind them."""
    first = tl.maximum(stop - WINDOW, 0) if WINDOW else stop * 0
    first_tile, tiles = first // TILE, tl.cdiv(stop, TILE)
    share = tl.cdiv(tiles - first_tile, splits)
    begin = first_tile + tl.program_id(0) * share
    return first, begin, tl.minimum(begin + share, tiles)


@triton.jit  # type: ignore[untyped-decorator]
def bring(
    keys: tl.tensor,
    values: tl.tensor,
    wanted: tl.tensor,
    ASM: tl.constexpr,
    KEY_LINES: tl.constexpr,
    VALUE_LINES: tl.constexpr,
    LINE_ITEMS: tl.constexpr,
    KEY_ITEMS: tl.constexpr,
    VALUE_ITEMS: tl.constexpr,
) -> None:
    """Ask for rows to be brought into L2 where they are `wanted`: no data, no wait, no change of any result."""
    _bring(keys, wanted, ASM, KEY_LINES, LINE_ITEMS, KEY_ITEMS)
    _bring(values, wanted, ASM, VALUE_LINES, LINE_ITEMS, VALUE_ITEMS)


@triton.jit  # type: ignore[untyped-decorator]
def _bring(
    at: tl.tensor,
    wanted: tl.tensor,
    ASM: tl.constexpr,
    LINES: tl.constexpr,
    LINE_ITEMS: tl.constexpr,
    ITEMS: tl.constexpr,
) -> None:
    line = tl.minimum(tl.arange(0, LINES) * LINE_ITEMS, ITEMS - 1)
    address = (at[:, None] + line[None, :]).to(tl.int64)
    ask = tl.broadcast_to(wanted[:, None], address.shape).to(tl.int32)
    tl.inline_asm_elementwise(ASM, "=r,l,r", [address, ask], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit  # type: ignore[untyped-decorator]
def finish(
    sums: tl.tensor,  # [sequences, heads, splits]
    total: tl.tensor,  # [ROWS]
    top: tl.tensor,  # [ROWS]
    splits: tl.tensor,
    GROUP_HEADS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Store the logarithms of sums. Where each row's part is among all, and what its result is to be divided by."""
    row = tl.arange(0, ROWS)
    # what has seen nothing divides by one
    some = tl.where(total == 0, 1.0, total)
    logs = tl.where(total == 0, -float("inf"), (top + tl.log2(some)) * 0.6931471805599453)
    head = tl.program_id(1).to(tl.int64) * GROUP_HEADS + row
    at = (tl.program_id(2) * (tl.num_programs(1) * GROUP_HEADS) + head) * splits + tl.program_id(0)
    tl.store(sums + at, logs, mask=row < GROUP_HEADS)
    return at, some


@triton.jit(do_not_specialize=["splits"])  # type: ignore[untyped-decorator]
def combine(
    parts: tl.tensor,  # [sequences, heads, splits, DIM]
    part_sums: tl.tensor,  # [sequences, heads, splits]
    out: tl.tensor,  # [sequences, heads, DIM]
    sums: tl.tensor,  # [sequences, heads]
    splits: tl.tensor,
    MOST: tl.constexpr,  # splits that there may be
    STEP: tl.constexpr,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    at = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    every, dim = tl.arange(0, MOST), tl.arange(0, WIDTH)
    logs = tl.load(part_sums + at * splits + every, mask=every < splits, other=-float("inf"))
    top = tl.maximum(tl.max(logs, 0), LOWEST)
    total = tl.sum(tl.exp(logs - top), 0)
    result = tl.zeros((STEP, WIDTH), tl.float32)
    for start in range(0, splits, STEP):
        split = start + tl.arange(0, STEP)
        weights = tl.exp(tl.load(part_sums + at * splits + split, mask=split < splits, other=-float("inf")) - top)
        mask = (split < splits)[:, None] & (dim < DIM)[None, :]
        result += (
            tl.load(parts + (at * splits + split)[:, None] * DIM + dim[None, :], mask=mask, other=0) * weights[:, None]
        )
    some = tl.where(total == 0, 1.0, total)
    tl.store(out + at * DIM + dim, (tl.sum(result, 0) / some).to(out.dtype.element_ty), mask=dim < DIM)
    tl.store(sums + at, tl.where(total == 0, -float("inf"), top + tl.log(some)))
