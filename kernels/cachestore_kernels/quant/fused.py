"""Quantisation as one pass between pages and codes: a launch for the keys of all slots and one for the values.

A program holds whole groups in registers: of keys one group of tokens with all channels, of values many tokens with
one group of channels. Everything between load and store is float32 without fused multiply-add, so that codes equal the
oracle's.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.launch import architecture, launch
from cachestore_kernels.paged.fused import VARYING, locate, over_rows, reach, tiling
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.quant.forms import LARGEST, LIMIT, Quantised
from cachestore_kernels.quant.rounding.fused import coded, half_down, half_up, most, quotient

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernels below run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


def gather(pools: Pools, out: Quantised, units: torch.Tensor | None) -> None:
    """Fill `out`; `units` `[blocks, slots, 2]` is what one unit is worth, None for 1."""
    _launch(pools, out, units, into_pages=False)


def peaks(pools: Pools, out: torch.Tensor) -> None:
    """Fill `out` `[blocks, slots, 2]`; a page outside the pools counts as zeros."""
    tiles = tiling(pools, "quant.peaks")[1]
    found = torch.empty(*out.shape, tiles, dtype=torch.int32, device=pools.device)
    over_rows(_peak, "quant.peaks", pools, (pools.keys[0], found))
    out.copy_(found.amax(3).view(torch.float32))


def scatter(quantised: Quantised, pools: Pools, units: torch.Tensor | None) -> None:
    """Write what `quantised` stands for into its pages; pages outside the pools are skipped."""
    _launch(pools, quantised, units, into_pages=True)


def _launch(pools: Pools, quantised: Quantised, units: torch.Tensor | None, *, into_pages: bool) -> None:
    blocks, slots, _, heads, tokens, head_dim = pools.blocks_shape
    if blocks == 0:
        return
    first = pools.keys[0]
    planes, strides, step = reach(pools)
    group = quantised.group
    settings = launch("quant", pools.device)
    sides = (
        (quantised.key_scales, quantised.key_zeros, group, triton.next_power_of_2(head_dim), settings["num_warps"]),
        (quantised.value_scales, quantised.value_zeros, settings["value_rows"], group, settings["value_warps"]),
    )
    with torch.cuda.device(first.get_device()):
        for side, (scales, zeros, rows, width, warps) in enumerate(sides):
            groups = triton.cdiv(head_dim, group) if side else 1
            _code[(blocks, slots * heads, triton.cdiv(tokens, rows) * groups)](
                planes,
                pools.pages,
                first,
                quantised.codes,
                scales,
                scales if zeros is None else zeros,
                scales if units is None else units,
                first.shape[0],
                *strides,
                INTO_PAGES=into_pages,
                SIDE=side,
                FORM=quantised.form,
                CONVERTS=_converts(pools.device),
                LARGEST=LARGEST[quantised.form],
                LIMIT=LIMIT,
                UNITS=units is not None,
                STEP=step,
                HEADS=heads,
                PAGE_TOKENS=first.shape[2],
                EACH=tokens // first.shape[2],
                HEAD_DIM=head_dim,
                ROWS=rows,
                WIDTH=width,
                num_warps=warps,
                enable_fp_fusion=False,
            )


def _converts(device: torch.device) -> bool:
    """Whether the device rounds to floats of one byte by itself."""
    return not INTERPRETED and torch.version.hip is None and architecture(device) >= 89


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _peak(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    like: tl.tensor,  # a pool, for its element type
    found: tl.tensor,  # [blocks, slots * 2, tiles]
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
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
    block, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    plane = tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = tl.arange(0, WIDTH)[None, :]
    at, inside = locate(
        planes, plane, pages, page_count, block, row // (TOKENS * EACH), row % (TOKENS * EACH),
        page_stride, head_stride, token_stride, STEP, TOKENS, EACH, like.dtype.element_ty,
    )  # fmt: skip
    mask = (inside & (row < rows))[:, None] & (dim < HEAD_DIM)
    value = tl.load(at[:, None] + dim, mask=mask, other=0).to(tl.float32)
    # magnitudes are in the order of their bits, infinity and then NaN last
    size = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    tl.store(found + (block.to(tl.int64) * tl.num_programs(1) + plane) * tiles + tile, tl.max(tl.max(size, 1), 0))


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _code(
    planes: tl.tensor,
    pages: tl.tensor,  # [blocks, pages of a block]
    like: tl.tensor,  # a pool, for its element type
    codes: tl.tensor,  # [blocks, slots, 2, heads, tokens, head_dim or half of it]
    scales: tl.tensor,  # [blocks, slots, heads, ...] of one side
    zeros: tl.tensor,
    units: tl.tensor,  # [blocks, slots, 2]
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
    SIDE: tl.constexpr,  # 0 keys, 1 values: the axis of the tile along which a group lies
    FORM: tl.constexpr,
    CONVERTS: tl.constexpr,  # the device itself, to floats of one byte
    LARGEST: tl.constexpr,
    LIMIT: tl.constexpr,
    UNITS: tl.constexpr,  # whether there are any
    STEP: tl.constexpr,
    HEADS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    EACH: tl.constexpr,  # pages of a block
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    TOKENS: tl.constexpr = PAGE_TOKENS * EACH
    NARROW: tl.constexpr = 8
    GROUPS: tl.constexpr = (HEAD_DIM + WIDTH - 1) // WIDTH  # along channels
    WHOLE: tl.constexpr = TOKENS % ROWS == 0 and HEAD_DIM % WIDTH == 0
    block = tl.program_id(0)
    slot, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    slots = tl.num_programs(1) // HEADS
    tile, group = tl.program_id(2) // GROUPS, tl.program_id(2) % GROUPS
    token = tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = group * WIDTH + tl.arange(0, WIDTH)  # [WIDTH]
    mask = (token < TOKENS)[:, None] & (dim < HEAD_DIM)[None, :]
    unit = tl.load(units + (block.to(tl.int64) * slots + slot) * 2 + SIDE) if UNITS else 1.0

    if PAGE_TOKENS % ROWS == 0:
        # in one page
        first, inside = locate(
            planes, slot * 2 + SIDE, pages, page_count, block, head, tile * ROWS,
            page_stride, head_stride, token_stride, STEP, PAGE_TOKENS, EACH, like.dtype.element_ty,
        )  # fmt: skip
        at = first + tl.arange(0, ROWS).to(tl.int64) * token_stride * STEP
        # the interpreter takes no mask of one element for all
        page_mask = mask & (token < tl.where(inside, TOKENS, 0))[:, None]
    else:
        # the last rows of a tile may lie behind the block: they read the page of its first token, and are masked
        at, there = locate(
            planes, slot * 2 + SIDE, pages, page_count, block, head, tl.where(token < TOKENS, token, 0),
            page_stride, head_stride, token_stride, STEP, PAGE_TOKENS, EACH, like.dtype.element_ty,
        )  # fmt: skip
        page_mask = mask & there[:, None]
    in_page = at[:, None] + dim[None, :]

    plane = ((block.to(tl.int64) * slots + slot) * 2 + SIDE) * HEADS + head
    scale_plane = (block.to(tl.int64) * slots + slot) * HEADS + head
    if SIDE == 0:
        at_scale = (scale_plane * tl.cdiv(TOKENS, ROWS) + tile) * HEAD_DIM + dim[None, :]
        scale_mask = (dim < HEAD_DIM)[None, :]
    else:
        at_scale = (scale_plane * TOKENS * GROUPS + token * GROUPS + group)[:, None]
        scale_mask = (token < TOKENS)[:, None]

    if FORM == "int4":
        pair = group * (WIDTH // 2) + tl.arange(0, WIDTH // 2)
        in_codes = codes + plane * (TOKENS * (HEAD_DIM // 2)) + (token[:, None] * (HEAD_DIM // 2) + pair[None, :])
        code_mask = (token < TOKENS)[:, None] & (pair < HEAD_DIM // 2)[None, :]
    else:
        in_codes = codes + plane * (TOKENS * HEAD_DIM) + (token[:, None] * HEAD_DIM + dim[None, :])
        code_mask = mask

    if INTO_PAGES:
        value = worth(tl.load(in_codes, mask=code_mask, other=0), FORM, CONVERTS)
        value = value * tl.load(scales + at_scale, mask=scale_mask, other=0).to(tl.float32)
        if FORM == "int8" or FORM == "int4":
            value = value + tl.load(zeros + at_scale, mask=scale_mask, other=0).to(tl.float32)
        tl.store(in_page, (value * unit if UNITS else value).to(like.dtype.element_ty), mask=page_mask)
    else:
        if SIDE == 0:
            in_page = tl.max_contiguous(in_page, (1, NARROW))
        value = tl.load(in_page, mask=page_mask, other=0).to(tl.float32)
        if UNITS:
            # a power of two: to multiply by its reciprocal is to divide
            value *= tl.div_rn(tl.full((1, 1), 1.0, tl.float32), tl.full((1, 1), 0.0, tl.float32) + unit)
        if FORM == "int8" or FORM == "int4":
            highest = most(value if WHOLE else tl.where(mask, value, -float("inf")), SIDE)
            below = most(value * -1.0 if WHOLE else tl.where(mask, value * -1.0, -float("inf")), SIDE)
            sound = (highest <= LIMIT) & (below <= LIMIT)
            value = tl.where(sound, value, 0.0)
            # nothing is behind the last row or channel: zeros there keep the arithmetic finite
            real = sound if WHOLE else sound & scale_mask
            zero = half_down(tl.where(real, below * -1.0, 0.0) + 0.0)
            span = tl.where(real, highest, 0.0) - zero.to(tl.float32)
            tl.store(zeros + at_scale, zero, mask=scale_mask)
            value = value - zero.to(tl.float32)
        else:
            # magnitudes are in the order of their bits, infinity and then NaN last
            size = tl.max(value.to(tl.int32, bitcast=True) & 0x7FFFFFFF, SIDE, keep_dims=True)
            sound = size <= tl.full(size.shape, LIMIT, tl.float32).to(tl.int32, bitcast=True)
            span = tl.where(sound, size, 0).to(tl.float32, bitcast=True)
            value = tl.where(sound, value, 0.0)
        largest = tl.full(span.shape, LARGEST, tl.float32)
        if UNITS or like.dtype.element_ty == tl.float32:
            # this may be less than any normal float
            scale = half_up(tl.div_rn(span, largest))
        else:
            scale = half_up(quotient(span, largest, 1.0 / largest))
        # never less than the least float16: where that is more than the scale, there is nothing to divide
        step = tl.maximum(scale.to(tl.float32), 5.9604644775390625e-08)
        # of a group that is not sound, every code is 0
        steps = quotient(value, step, tl.where(sound, 1.0 / step, 0.0))
        tl.store(scales + at_scale, tl.where(sound, scale, float("nan")), mask=scale_mask)
        if SIDE == 0:
            # narrow, as the loads: a thread works out the scales of all its channels
            in_codes = tl.max_contiguous(in_codes, (1, NARROW // 2 if FORM == "int4" else NARROW))
        tl.store(in_codes, coded(steps, FORM, CONVERTS), mask=code_mask)


@triton.jit  # type: ignore[untyped-decorator]
def worth(codes: tl.tensor, FORM: tl.constexpr, CONVERTS: tl.constexpr = False) -> tl.tensor:
    """What codes stand for before scale and zero, in float32. Of int4 the last axis becomes twice as long.

    CONVERTS: whether the device itself can read floats of one byte.
    """
    if FORM == "int4":
        values = tl.interleave(codes & 15, codes >> 4).to(tl.float32)
    elif FORM == "int8":
        values = codes.to(tl.float32)
    elif CONVERTS:
        FLOAT: tl.constexpr = tl.float8e4nv if FORM == "e4m3" else tl.float8e5
        values = codes.to(FLOAT, bitcast=True).to(tl.float32)
    elif FORM == "e5m2":
        # the upper half of a float16
        values = (codes.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        # exponent and mantissa one place lower are those of a float16 whose exponent is 8 too small
        wide = codes.to(tl.uint16)
        small = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32)
        values = tl.where((wide & 0x7F) == 0x7F, float("nan"), small * 256.0)
    return values
