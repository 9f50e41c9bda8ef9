"""XXH3-64 in Triton, one program a plane.

What sixteen stripes add to the lanes does not depend on the lanes: so a program loads several such runs at once, sums
each over its stripes in parallel, and only the scrambling of eight lanes goes step by step.
"""

from functools import cache
from math import gcd
from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.checksum.sides import Sides
from cachestore_kernels.checksum.xxh3 import AVALANCHE, P32, P64, START, words
from cachestore_kernels.launch import launch
from cachestore_kernels.paged.fused import VARYING, table

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

# places in the table of words
_LAST: Final = tl.constexpr(24)
_MERGE: Final = tl.constexpr(32)
_START: Final = tl.constexpr(40)
_SIZE: Final = tl.constexpr(48)
_PRIME32: Final = tl.constexpr(P32[0])
_AVALANCHE: Final = tl.constexpr(AVALANCHE)


def checksum(sides: Sides, out: torch.Tensor) -> None:
    """Fill `out`, int64, one element a plane; pages outside the pools count as zeros."""
    if out.numel() == 0:
        return
    pool = sides.pools[0]
    settings = launch("checksum", out.device)
    addresses = tuple(pool.data_ptr() for pool in sides.pools)
    step = gcd(16, sides.row_bytes, *addresses, *sides.strides) // 8
    paged = sides.pages is not None
    with torch.cuda.device(out.get_device()):
        _checksum[(sides.blocks, len(sides.pools), sides.head_groups)](
            table(addresses, out.device) if paged else pool.view(torch.int64),
            sides.pages if paged else out,
            _table(sides.plane_bytes, out.device),
            out,
            len(pool),
            *(stride // 8 // step for stride in sides.strides),
            PAGED=paged,
            FLAT=sides.flat,
            STEP=step,
            TOKENS=sides.tokens,
            PAGE_TOKENS=pool.shape[2],
            GROUP_HEADS=sides.group_heads,
            ROW_WORDS=sides.row_bytes // 8,
            RUNS=settings["runs"],
            num_warps=settings["num_warps"],
            enable_fp_fusion=False,
        )


@cache
def _table(size: int, device: torch.device) -> torch.Tensor:
    """Secret by words, secret of the last stripe, of the merge, the lanes' start, and the size multiplied."""
    table = [*words(0, 24), *words(121, 8), *words(11, 8), *START, size * P64[0] % 2**64]
    return torch.tensor([word - (word >> 63 << 64) for word in table], device=device)


@triton.jit(do_not_specialize=(*VARYING, "out"))  # type: ignore[untyped-decorator]
def _checksum(
    addresses: tl.tensor,  # [sides]; not PAGED, the only side itself
    pages: tl.tensor,  # [blocks, pages of a block]
    table: tl.tensor,
    out: tl.tensor,  # [blocks, sides, head groups]
    page_count: tl.tensor,
    page_stride: tl.tensor,  # in units of STEP words of 8 bytes, as are the others
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    PAGED: tl.constexpr,  # or else every page is a block
    FLAT: tl.constexpr,  # whether the words of a plane lie one behind the other
    STEP: tl.constexpr,
    TOKENS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    GROUP_HEADS: tl.constexpr,
    ROW_WORDS: tl.constexpr,
    RUNS: tl.constexpr,  # of 1024 bytes, in flight at once
) -> None:
    SIZE: tl.constexpr = GROUP_HEADS * TOKENS * ROW_WORDS * 8
    COMPLETE: tl.constexpr = (SIZE - 1) // 1024
    block, side, group = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    plane = (block.to(tl.int64) * tl.num_programs(1) + side) * tl.num_programs(2) + group
    base = tl.load(addresses + side).to(tl.pointer_type(tl.int64)) if PAGED else addresses
    base += (group * GROUP_HEADS).to(tl.int64) * head_stride * STEP
    there = 1
    if PAGED:
        pages += block.to(tl.int64) * (TOKENS // PAGE_TOKENS)
    if FLAT:
        page = tl.load(pages) if PAGED else block.to(tl.int64)
        base += page * page_stride * STEP
        # a number, as the interpreter takes no mask of one element for all
        there = tl.where((page >= 0) & (page < page_count), 1, 0)
    base = tl.multiple_of(base, 8 * STEP)
    lane = tl.arange(0, 8)
    stripe = tl.arange(0, 16)
    key = _word(table + stripe[:, None] + lane[None, :])  # [16, 8]
    scramble = _word(table + 16 + lane)
    lanes = _word(table + _START + lane)

    # what comes last is on its way while the rest is computed
    STRIPES: tl.constexpr = (SIZE - 1 - COMPLETE * 1024) // 64
    rest = (stripe < STRIPES)[:, None]
    rest_data = _data(
        base, pages, page_count, COMPLETE * 128 + stripe[:, None] * 8, (stripe < STRIPES * there)[:, None],
        lane[None, :], page_stride, head_stride, token_stride, FLAT, STEP, TOKENS, PAGE_TOKENS, ROW_WORDS,
    )  # fmt: skip
    last = tl.full((1, 1), SIZE // 8 - 8, tl.int32)
    last_data = _data(
        base, pages, page_count, last, last < (SIZE // 8) * there, lane[None, :],
        page_stride, head_stride, token_stride, FLAT, STEP, TOKENS, PAGE_TOKENS, ROW_WORDS,
    )  # fmt: skip

    run = tl.arange(0, RUNS)
    for first in range(0, COMPLETE, RUNS):
        real = ((first + run) < COMPLETE * there)[:, None, None]
        data = _data(
            base, pages, page_count, ((first + run)[:, None] * 128 + stripe[None, :] * 8)[:, :, None], real,
            lane[None, None, :], page_stride, head_stride, token_stride, FLAT, STEP, TOKENS, PAGE_TOKENS, ROW_WORDS,
        )  # fmt: skip  # [RUNS, 16, 8]
        added = tl.sum(_product(data, key[None, :, :]), 1) + _swapped(tl.sum(data, 1))  # [RUNS, 8]
        for number in tl.static_range(RUNS):
            one = tl.sum(tl.where((run == number)[:, None], added, tl.zeros_like(added)), 0)
            mixed = lanes + one
            mixed = (mixed ^ (mixed >> 47) ^ scramble) * _PRIME32
            lanes = tl.where(first + number < COMPLETE, mixed, lanes)

    product = _product(rest_data, key)
    lanes += tl.sum(tl.where(rest, product, tl.zeros_like(product)), 0)
    lanes += _swapped(tl.sum(rest_data, 0)[None, :]).reshape(8)
    lanes += (_product(last_data, _word(table + _LAST + lane)[None, :]) + _swapped(last_data)).reshape(8)

    even, odd = tl.split((lanes ^ _word(table + _MERGE + lane)).reshape(4, 2))
    result = _word(table + _SIZE) + tl.sum(tl.umulhi(even, odd) ^ (even * odd), 0)
    result = (result ^ (result >> 37)) * _AVALANCHE
    tl.store(out + plane, (result ^ (result >> 32)).to(tl.int64, bitcast=True))


@triton.jit  # type: ignore[untyped-decorator]
def _word(at: tl.tensor) -> tl.tensor:
    return tl.load(at).to(tl.uint64, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _data(
    base: tl.tensor,
    pages: tl.tensor,
    page_count: tl.tensor,
    first: tl.tensor,  # the word of the plane at which a stripe begins, [..., 1]
    mask: tl.tensor,
    lane: tl.tensor,  # [..., 8]
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    FLAT: tl.constexpr,
    STEP: tl.constexpr,
    TOKENS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    ROW_WORDS: tl.constexpr,
) -> tl.tensor:
    """Stripes of a plane, from wherever its rows lie; zeros where `mask` is false or the page outside the pool."""
    # where no stripe lies in two rows, its lanes are neighbours, and the compiler can see it
    WHOLE: tl.constexpr = ROW_WORDS % 8 == 0
    if FLAT:
        data = tl.load(base + first + lane, mask=mask, other=0)
    else:
        word = first if WHOLE else first + lane
        row = word // ROW_WORDS
        head, token = row // TOKENS, row % TOKENS
        page = tl.load(pages + token // PAGE_TOKENS, mask=mask, other=-1)
        at = page * page_stride + head.to(tl.int64) * head_stride + (token % PAGE_TOKENS).to(tl.int64) * token_stride
        within = word % ROW_WORDS
        inside = mask & (page >= 0) & (page < page_count)
        data = tl.load(base + at * STEP + within + (lane if WHOLE else 0), mask=inside, other=0)
    return data.to(tl.uint64, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def _product(data: tl.tensor, key: tl.tensor) -> tl.tensor:
    """The low half of each word, mixed with the secret, times its high half."""
    mixed = data ^ key
    return (mixed & 0xFFFFFFFF) * (mixed >> 32)


@triton.jit  # type: ignore[untyped-decorator]
def _swapped(sums: tl.tensor) -> tl.tensor:
    """`[runs, 8]` with the lanes of each pair in each other's place."""
    even, odd = tl.split(sums.reshape(sums.shape[0], 4, 2))
    return tl.join(odd, even).reshape(sums.shape[0], 8)
