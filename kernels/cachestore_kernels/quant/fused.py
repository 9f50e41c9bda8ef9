"""Quantisation as one pass between pages and codes: a launch for the keys of all slots and one for the values.

A program holds whole groups in registers: of keys one group of tokens with all channels, of values many tokens with
one group of channels. Everything between load and store is float32 without fused multiply-add, so that codes equal the
oracle's. Floats of one byte are made and read by integer arithmetic, which every architecture has.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.launch import launch
from cachestore_kernels.paged.fused import locate, over_rows, reach, tiling
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.quant.forms import LARGEST, LIMIT, Quantised

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernels below run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


def gather(pools: Pools, out: Quantised, units: torch.Tensor) -> None:
    """Fill `out`; `units` `[blocks, slots, 2]` is what one unit is worth."""
    _launch(pools, out, units, into_pages=False)


def peaks(pools: Pools, out: torch.Tensor) -> None:
    """Fill `out` `[blocks, slots, 2]`; a page outside the pools counts as zeros."""
    tiles = tiling(pools, "quant.peaks")[1]
    found = torch.empty(*out.shape, tiles, dtype=torch.int32, device=pools.device)
    over_rows(_peak, "quant.peaks", pools, (pools.keys[0], found))
    out.copy_(found.amax(3).view(torch.float32))


def scatter(quantised: Quantised, pools: Pools, units: torch.Tensor) -> None:
    """Write what `quantised` stands for into its pages; pages outside the pools are skipped."""
    _launch(pools, quantised, units, into_pages=True)


def _launch(pools: Pools, quantised: Quantised, units: torch.Tensor, *, into_pages: bool) -> None:
    blocks, slots, _, heads, tokens, head_dim = pools.blocks_shape
    if blocks == 0:
        return
    first = pools.keys[0]
    planes, strides, step = reach(pools)
    group = quantised.group
    settings = launch("quant", pools.device)
    sides = (
        (quantised.key_scales, quantised.key_zeros, group, triton.next_power_of_2(head_dim)),
        (quantised.value_scales, quantised.value_zeros, settings["value_rows"], group),
    )
    with torch.cuda.device(units.get_device()):
        for side, (scales, zeros, rows, width) in enumerate(sides):
            groups = triton.cdiv(head_dim, group) if side else 1
            _code[(blocks, slots * heads, triton.cdiv(tokens, rows) * groups)](
                planes,
                pools.pages,
                first,
                quantised.codes,
                scales,
                scales if zeros is None else zeros,
                units,
                first.shape[0],
                tokens // first.shape[2],
                heads,
                groups,
                *strides,
                INTO_PAGES=into_pages,
                SIDE=side,
                FORM=quantised.form,
                LARGEST=LARGEST[quantised.form],
                LIMIT=LIMIT,
                STEP=step,
                PAGE_TOKENS=first.shape[2],
                TOKENS=tokens,
                HEAD_DIM=head_dim,
                ROWS=rows,
                WIDTH=width,
                num_warps=settings["num_warps"],
                enable_fp_fusion=False,
            )


@triton.jit  # type: ignore[untyped-decorator]
def _peak(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    like: tl.tensor,  # a pool, for its element type
    found: tl.tensor,  # [blocks, slots * 2, tiles]
    page_count: tl.tensor,
    rows: tl.tensor,
    tiles: tl.tensor,
    each: tl.tensor,  # pages of a block
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    STEP: tl.constexpr,
    TOKENS: tl.constexpr,  # of a page
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    block, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    plane = tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = tl.arange(0, WIDTH)[None, :]
    at, inside = locate(
        planes, plane, pages, page_count, block, each, row // (TOKENS * each), row % (TOKENS * each),
        page_stride, head_stride, token_stride, STEP, TOKENS, like.dtype.element_ty,
    )  # fmt: skip
    mask = (inside & (row < rows))[:, None] & (dim < HEAD_DIM)
    value = tl.load(at[:, None] + dim, mask=mask, other=0).to(tl.float32)
    # magnitudes are in the order of their bits, infinity and then NaN last
    size = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    tl.store(found + (block.to(tl.int64) * tl.num_programs(1) + plane) * tiles + tile, tl.max(tl.max(size, 1), 0))


@triton.jit  # type: ignore[untyped-decorator]
def _code(
    planes: tl.tensor,
    pages: tl.tensor,  # [blocks, pages of a block]
    like: tl.tensor,  # a pool, for its element type
    codes: tl.tensor,  # [blocks, slots, 2, heads, tokens, head_dim or half of it]
    scales: tl.tensor,  # [blocks, slots, heads, ...] of one side
    zeros: tl.tensor,
    units: tl.tensor,  # [blocks, slots, 2]
    page_count: tl.tensor,
    each: tl.tensor,
    heads: tl.tensor,
    groups: tl.tensor,  # along channels
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
    SIDE: tl.constexpr,  # 0 keys, 1 values: the axis of the tile along which a group lies
    FORM: tl.constexpr,
    LARGEST: tl.constexpr,
    LIMIT: tl.constexpr,
    STEP: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    block = tl.program_id(0)
    slot, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    slots = tl.num_programs(1) // heads
    tile, group = tl.program_id(2) // groups, tl.program_id(2) % groups
    token = tile * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = group * WIDTH + tl.arange(0, WIDTH)  # [WIDTH]
    mask = (token < TOKENS)[:, None] & (dim < HEAD_DIM)[None, :]
    unit = tl.load(units + (block * slots + slot) * 2 + SIDE)

    # the last rows of a tile may lie behind the block: they read the page of its first token, and are masked
    at, inside = locate(
        planes, slot * 2 + SIDE, pages, page_count, block, each, head, tl.where(token < TOKENS, token, 0),
        page_stride, head_stride, token_stride, STEP, PAGE_TOKENS, like.dtype.element_ty,
    )  # fmt: skip
    in_page = at[:, None] + dim[None, :]
    page_mask = mask & inside[:, None]

    plane = ((block.to(tl.int64) * slots + slot) * 2 + SIDE) * heads + head
    row = plane * TOKENS + token  # [ROWS]
    scale_plane = (block.to(tl.int64) * slots + slot) * heads + head
    if SIDE == 0:
        at_scale = (scale_plane * tl.cdiv(TOKENS, ROWS) + tile) * HEAD_DIM + dim[None, :]
        scale_mask = (dim < HEAD_DIM)[None, :]
    else:
        at_scale = ((scale_plane * TOKENS + token) * groups + group)[:, None]
        scale_mask = (token < TOKENS)[:, None]

    if FORM == "int4":
        pair = group * (WIDTH // 2) + tl.arange(0, WIDTH // 2)
        in_codes = codes + row[:, None] * (HEAD_DIM // 2) + pair[None, :]
        code_mask = (token < TOKENS)[:, None] & (pair < HEAD_DIM // 2)[None, :]
    else:
        in_codes = codes + row[:, None] * HEAD_DIM + dim[None, :]
        code_mask = mask

    if INTO_PAGES:
        value = worth(tl.load(in_codes, mask=code_mask, other=0), FORM)
        value = value * tl.load(scales + at_scale, mask=scale_mask, other=0).to(tl.float32)
        if FORM == "int8" or FORM == "int4":
            value = value + tl.load(zeros + at_scale, mask=scale_mask, other=0).to(tl.float32)
        tl.store(in_page, (value * unit).to(like.dtype.element_ty), mask=page_mask)
    else:
        value = tl.div_rn(
            tl.load(in_page, mask=page_mask, other=0).to(tl.float32), unit + tl.zeros_like(token)[:, None]
        )
        broken = tl.max(tl.where(mask & ~(tl.abs(value) <= LIMIT), 1, 0), SIDE, keep_dims=True)
        value = tl.where(broken == 1, 0.0, value)
        if FORM == "int8" or FORM == "int4":
            # nothing is behind the last row or channel: zeros there keep the arithmetic finite
            least = tl.min(tl.where(mask, value, float("inf")), SIDE, keep_dims=True)
            zero = _half_down(tl.where(scale_mask, least, 0.0) + 0.0)
            most = tl.max(tl.where(mask, value, -float("inf")), SIDE, keep_dims=True)
            span = tl.where(scale_mask, most, 0.0) - zero.to(tl.float32)
            tl.store(zeros + at_scale, zero, mask=scale_mask)
            value = value - zero.to(tl.float32)
        else:
            span = tl.max(tl.where(mask, tl.abs(value), 0.0), SIDE, keep_dims=True)
        scale = _half_up(tl.div_rn(span, tl.full(span.shape, LARGEST, tl.float32)))
        step = tl.where(scale == 0, 1.0, scale.to(tl.float32))
        steps = tl.div_rn(value, tl.broadcast_to(step, value.shape))
        tl.store(
            scales + at_scale, tl.where(broken == 1, float("nan"), scale.to(tl.float32)).to(tl.float16), mask=scale_mask
        )
        tl.store(in_codes, _coded(steps, FORM), mask=code_mask)


@triton.jit  # type: ignore[untyped-decorator]
def worth(codes: tl.tensor, FORM: tl.constexpr) -> tl.tensor:
    """What codes stand for before scale and zero, in float32. Of int4 the last axis becomes twice as long."""
    if FORM == "int4":
        values = tl.interleave(codes & 15, codes >> 4).to(tl.float32)
    elif FORM == "int8":
        values = codes.to(tl.float32)
    elif FORM == "e5m2":
        # the upper half of a float16
        values = (codes.to(tl.uint16) << 8).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        # exponent and mantissa one place lower are those of a float16 whose exponent is 8 too small
        wide = codes.to(tl.uint16)
        small = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.float16, bitcast=True).to(tl.float32)
        values = tl.where((wide & 0x7F) == 0x7F, float("nan"), small * 256.0)
    return values


@triton.jit  # type: ignore[untyped-decorator]
def _coded(steps: tl.tensor, FORM: tl.constexpr) -> tl.tensor:
    """The codes nearest to `steps`, ties to even; of int4 two in a byte."""
    if FORM == "int4":
        low, high = tl.split(_rounded(steps).reshape(steps.shape[0], steps.shape[1] // 2, 2))
        codes = low | (high << 4)
    elif FORM == "int8":
        codes = _rounded(steps)
    else:
        # bits of mantissa that go, exponent bias that goes, and the float beside which the format's least step is one
        DROP: tl.constexpr = 20 if FORM == "e4m3" else 21
        BIAS: tl.constexpr = 120 if FORM == "e4m3" else 112
        BESIDE: tl.constexpr = 16384.0 if FORM == "e4m3" else 128.0
        SMALLEST_NORMAL: tl.constexpr = 0.015625 if FORM == "e4m3" else 0.00006103515625
        bits = steps.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        normal = ((size + ((1 << (DROP - 1)) - 1) + ((size >> DROP) & 1)) >> DROP) - (BIAS << (23 - DROP))
        magnitude = tl.abs(steps)
        beside = tl.full(magnitude.shape, BESIDE, tl.float32)
        tiny = (magnitude + beside).to(tl.int32, bitcast=True) - beside.to(tl.int32, bitcast=True)
        codes = (tl.where(magnitude < SMALLEST_NORMAL, tiny, normal) | ((bits >> 24) & 0x80)).to(tl.uint8)
    return codes


@triton.jit  # type: ignore[untyped-decorator]
def _rounded(steps: tl.tensor) -> tl.tensor:
    """The integers from 0 to 255 nearest to `steps`: beside 2**23 a float has no room for a fraction."""
    return ((steps + 8388608.0).to(tl.int32, bitcast=True) & 0xFF).to(tl.uint8)


@triton.jit  # type: ignore[untyped-decorator]
def _half_up(values: tl.tensor) -> tl.tensor:
    """`values`, none negative, as float16, rounded up."""
    half = values.to(tl.float16)
    above = (half.to(tl.int16, bitcast=True) + 1).to(tl.int16).to(tl.float16, bitcast=True)
    return tl.where(half.to(tl.float32) < values, above, half)


@triton.jit  # type: ignore[untyped-decorator]
def _half_down(values: tl.tensor) -> tl.tensor:
    """`values` as float16, rounded down."""
    half = values.to(tl.float16)
    bits = half.to(tl.int16, bitcast=True)
    # below +0 comes the least negative number; else one nearer to zero for positives, one farther for negatives
    below = tl.where(bits == 0, -32767, tl.where(bits > 0, bits - 1, bits + 1)).to(tl.int16)
    return tl.where(half.to(tl.float32) > values, below.to(tl.float16, bitcast=True), half)
