"""Keys turned on their way into pages: one Triton launch for K and V of all slots and blocks.

A tile holds the same few tokens of several heads: angles are twice as long as what they turn, and come once for all.
"""

from math import gcd
from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.paged.fused import VARYING, locate, over_rows
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.rope.turns import Turns

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

TOGETHER = 4
"""Tokens of a head that are neighbours in a tile."""


def scatter(blocks: torch.Tensor, pools: Pools, turns: Turns) -> None:
    """Write `blocks` into their pages, keys turned; pages outside the pools are skipped."""
    over_rows(
        _turn,
        "rope",
        pools,
        (blocks, turns.cosines, turns.sines, turns.shifts),
        (blocks,),
        CHUNK=gcd(turns.shifts.shape[1], TOGETHER),
        INTERLEAVED=turns.interleaved,
        PAIRS=turns.pairs,
    )


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _turn(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    blocks: tl.tensor,  # [blocks, slots * 2, rows, HEAD_DIM]
    cosines: tl.tensor,  # [blocks, tokens, PAIRS]
    sines: tl.tensor,
    shifts: tl.tensor,  # [blocks, tokens]
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    CHUNK: tl.constexpr,  # tokens of a head that are neighbours in a tile
    INTERLEAVED: tl.constexpr,
    PAIRS: tl.constexpr,
    STEP: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,  # of a page
    EACH: tl.constexpr,  # pages of a block
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    rows: tl.constexpr = HEADS * TOKENS * EACH
    tiles: tl.constexpr = (rows + ROWS - 1) // ROWS
    block = tl.program_id(0) // tiles
    plane = tl.program_id(1)
    number = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    # some tokens of the first head, the same of the second, and so on; then the next tokens
    part = number // CHUNK
    head = part % HEADS
    token = tl.minimum(part // HEADS, TOKENS * EACH // CHUNK - 1) * CHUNK + number % CHUNK
    row = head * (TOKENS * EACH) + token
    at, inside = locate(
        planes, plane, pages, page_count, block, head, token,
        page_stride, head_stride, token_stride, STEP, TOKENS, EACH, blocks.dtype.element_ty,
    )  # fmt: skip
    start = blocks + ((block.to(tl.int64) * tl.num_programs(1) + plane) * rows + row) * HEAD_DIM
    real = (inside & (number < rows))[:, None]
    dim = tl.arange(0, WIDTH)[None, :]
    if plane % 2 == 1:
        whole = real & (dim < HEAD_DIM)
        tl.store(at[:, None] + dim, tl.load(start[:, None] + dim, mask=whole), mask=whole)
    else:
        PAIR_WIDTH: tl.constexpr = triton.next_power_of_2(PAIRS)
        pair = tl.arange(0, PAIR_WIDTH)[None, :]
        turn = (block.to(tl.int64) * (TOKENS * EACH) + token)[:, None]  # [ROWS, 1]
        mask = real & (pair < PAIRS)
        cosine = tl.load(cosines + turn * PAIRS + pair, mask=mask, other=1)
        sine = tl.load(sines + turn * PAIRS + pair, mask=mask, other=0)
        unmoved = tl.load(shifts + turn, mask=real, other=0) == 0
        if INTERLEAVED:
            both = tl.arange(0, 2 * PAIR_WIDTH)[None, :]
            both_mask = real & (both < 2 * PAIRS)
            keys = tl.load(start[:, None] + both, mask=both_mask, other=0)
            one, two = tl.split(keys.reshape(ROWS, PAIR_WIDTH, 2))
            left, right = _turned(one, two, cosine, sine)
            turned = tl.where(unmoved, keys, tl.interleave(left, right))
            tl.store(at[:, None] + both, turned, mask=both_mask)
        else:
            one = tl.load(start[:, None] + pair, mask=mask, other=0)
            two = tl.load(start[:, None] + PAIRS + pair, mask=mask, other=0)
            left, right = _turned(one, two, cosine, sine)
            tl.store(at[:, None] + pair, tl.where(unmoved, one, left), mask=mask)
            tl.store(at[:, None] + PAIRS + pair, tl.where(unmoved, two, right), mask=mask)
        if 2 * PAIRS < HEAD_DIM:
            rest = 2 * PAIRS + tl.arange(0, triton.next_power_of_2(HEAD_DIM - 2 * PAIRS))[None, :]
            rest_mask = real & (rest < HEAD_DIM)
            tl.store(at[:, None] + rest, tl.load(start[:, None] + rest, mask=rest_mask), mask=rest_mask)


@triton.jit  # type: ignore[untyped-decorator]
def _turned(one: tl.tensor, two: tl.tensor, cosine: tl.tensor, sine: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Both channels of each pair, turned in float32 and rounded to their dtype."""
    x, y = one.to(tl.float32), two.to(tl.float32)
    return (x * cosine - y * sine).to(one.dtype), (y * cosine + x * sine).to(one.dtype)
