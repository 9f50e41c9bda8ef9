"""Exponents taken apart and packed in Triton, each as one launch for K and V of all slots and blocks.

A program of the split moves a tile of rows, as a plain move does. One of the packing holds a whole group in registers,
where the tops of its channels and the places of what escapes are found.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.launch import launch
from cachestore_kernels.paged.fused import VARYING, locate, over_rows, reach
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.shuffle.forms import GROUP, Packed, Split

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernels below run in Triton's interpreter: TRITON_INTERPRET at the import of this file."""


def gather_split(pools: Pools, out: Split) -> None:
    """Fill `out`; zeros where a page lies outside the pools."""
    over_rows(_split, "shuffle.split", pools, out, INTO_PAGES=False)


def scatter_split(split: Split, pools: Pools) -> None:
    """Write what `split` holds into its pages; pages outside the pools are skipped."""
    over_rows(_split, "shuffle.split", pools, split, INTO_PAGES=True)


def gather_packed(pools: Pools, out: Packed) -> None:
    """Fill `out`; a page outside the pools counts as zeros."""
    _launch(pools, out, into_pages=False)


def scatter_packed(packed: Packed, pools: Pools) -> None:
    """Write what `packed` holds into its pages, but for groups that cannot be had back and pages outside the pools."""
    _launch(pools, packed, into_pages=True)


def _launch(pools: Pools, packed: Packed, *, into_pages: bool) -> None:
    count, slots, _, heads, tokens, head_dim = pools.blocks_shape
    if count == 0:
        return
    first = pools.keys[0]
    planes, strides, step = reach(pools)
    room = packed.escapes.shape[-1]
    with torch.cuda.device(first.get_device()):
        _pack[(count, 2 * slots * heads, triton.cdiv(tokens, GROUP))](
            planes,
            pools.pages,
            *packed[1:],
            first.shape[0],
            *strides,
            INTO_PAGES=into_pages,
            STEP=step,
            HEADS=heads,
            PAGE_TOKENS=first.shape[2],
            EACH=tokens // first.shape[2],
            HEAD_DIM=head_dim,
            ROWS=min(GROUP, triton.next_power_of_2(tokens)),
            WIDTH=max(8, triton.next_power_of_2(head_dim)),
            BITS=packed.width,
            ROOM=room,
            ROOM_WIDTH=triton.next_power_of_2(room),
            num_warps=launch("shuffle.pack", pools.device)["num_warps"],
            enable_fp_fusion=False,
        )


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _split(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    exponents: tl.tensor,  # [blocks, slots * 2, rows, HEAD_DIM]
    mantissas: tl.tensor,
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
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
    row = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = tl.arange(0, WIDTH)[None, :]
    head, token = row // (TOKENS * EACH), row % (TOKENS * EACH)
    at, inside = locate(
        planes, plane, pages, page_count, block, head, token,
        page_stride, head_stride, token_stride, STEP, TOKENS, EACH, tl.int16,
    )  # fmt: skip
    in_page = at[:, None] + dim  # [ROWS, WIDTH]
    in_block = ((block.to(tl.int64) * tl.num_programs(1) + plane) * rows + row)[:, None] * HEAD_DIM + dim
    page_mask = (inside & (row < rows))[:, None] & (dim < HEAD_DIM)
    if INTO_PAGES:
        exponent = tl.load(exponents + in_block, mask=page_mask, other=0)
        exponent = (exponent << 1) | (exponent >> 7)
        tl.store(in_page, _joined(exponent, tl.load(mantissas + in_block, mask=page_mask, other=0)), mask=page_mask)
    else:
        block_mask = (row < rows)[:, None] & (dim < HEAD_DIM)
        exponent, mantissa = _parted(tl.load(in_page, mask=page_mask, other=0))
        tl.store(exponents + in_block, (exponent >> 1) | (exponent << 7), mask=block_mask)
        tl.store(mantissas + in_block, mantissa, mask=block_mask)


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _pack(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    codes: tl.tensor,  # [blocks, slots * 2 * heads, BITS, TOKENS, bytes]
    mantissas: tl.tensor,  # [blocks, slots * 2 * heads, TOKENS, HEAD_DIM]
    tops: tl.tensor,  # [blocks, slots * 2 * heads, groups, HEAD_DIM]
    escapes: tl.tensor,  # [blocks, slots * 2 * heads, groups, ROOM]
    counts: tl.tensor,  # [blocks, slots * 2 * heads, groups]
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
    STEP: tl.constexpr,
    HEADS: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    EACH: tl.constexpr,  # pages of a block
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BITS: tl.constexpr,
    ROOM: tl.constexpr,
    ROOM_WIDTH: tl.constexpr,
) -> None:
    TOKENS: tl.constexpr = PAGE_TOKENS * EACH
    BYTES: tl.constexpr = (HEAD_DIM + 7) // 8
    LAST: tl.constexpr = (1 << BITS) - 1
    block, group = tl.program_id(0), tl.program_id(2)
    side, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    token = group * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim, eight, place = tl.arange(0, WIDTH), tl.arange(0, WIDTH // 8), tl.arange(0, 8)
    real = token < TOKENS
    mask = real[:, None] & (dim < HEAD_DIM)[None, :]
    byte_mask = real[:, None] & (eight < BYTES)[None, :]

    # the last rows of a tile may lie behind the block: they read the page of its first token, and are masked
    at, inside = locate(
        planes, side, pages, page_count, block, head, tl.where(real, token, 0),
        page_stride, head_stride, token_stride, STEP, PAGE_TOKENS, EACH, tl.int16,
    )  # fmt: skip
    in_page = at[:, None] + dim[None, :]
    page_mask = mask & inside[:, None]
    plane = block.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    in_block = (plane * TOKENS + token)[:, None] * HEAD_DIM + dim[None, :]
    numbered = plane * tl.num_programs(2) + group
    in_tops = tops + numbered * HEAD_DIM + dim
    in_codes = codes + (plane * BITS * TOKENS + token)[:, None] * BYTES + eight[None, :]
    escapes += numbered * ROOM

    if INTO_PAGES:
        code = tl.zeros((ROWS, WIDTH // 8, 8), tl.int32)
        for bit in tl.static_range(BITS):
            byte = tl.load(in_codes + bit * TOKENS * BYTES, mask=byte_mask, other=0).to(tl.int32)
            code |= ((byte[:, :, None] >> place[None, None, :]) & 1) << bit
        code = code.reshape(ROWS, WIDTH)
        escaped = mask & (code == LAST)
        rank, _ = _ranks(escaped)
        top = tl.load(in_tops, mask=dim < HEAD_DIM, other=0).to(tl.int32)
        far = tl.load(escapes + rank, mask=escaped & (rank < ROOM), other=0).to(tl.int32)
        exponent = tl.where(escaped, far, top[None, :] - code).to(tl.uint8)
        mantissa = tl.load(mantissas + in_block, mask=mask, other=0)
        # a mask of one element for all is none that the interpreter takes
        wanted = tl.where(tl.load(counts + numbered) <= ROOM, HEAD_DIM, 0)
        tl.store(in_page, _joined(exponent, mantissa), mask=page_mask & (dim < wanted)[None, :])
    else:
        exponent, mantissa = _parted(tl.load(in_page, mask=page_mask, other=0))
        tl.store(mantissas + in_block, mantissa, mask=mask)
        top = tl.max(exponent.to(tl.int32), 0)  # [WIDTH]; what is masked is 0, which is no more than any
        tl.store(in_tops, top.to(tl.uint8), mask=dim < HEAD_DIM)
        code = tl.where(mask, tl.minimum(top[None, :] - exponent.to(tl.int32), LAST), 0)
        eights = code.reshape(ROWS, WIDTH // 8, 8)
        for bit in tl.static_range(BITS):
            byte = tl.sum(((eights >> bit) & 1) << place[None, None, :], 2)
            tl.store(in_codes + bit * TOKENS * BYTES, byte.to(tl.uint8), mask=byte_mask)
        escaped = mask & (code == LAST)
        rank, count = _ranks(escaped)
        tl.store(counts + numbered, count)
        tl.store(escapes + rank, exponent, mask=escaped & (rank < ROOM))
        room = tl.arange(0, ROOM_WIDTH)
        tl.store(escapes + room, tl.zeros((ROOM_WIDTH,), tl.uint8), mask=(room >= count) & (room < ROOM))


@triton.jit  # type: ignore[untyped-decorator]
def _ranks(escaped: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """How many escape before each, row by row, and how many in all."""
    one = escaped.to(tl.int32)
    each = tl.sum(one, 1)  # [ROWS]
    before = tl.cumsum(each, 0) - each
    return before[:, None] + tl.cumsum(one, 1) - one, tl.sum(each, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _parted(bits: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """The exponents and the mantissas of 16 bits each."""
    return ((bits >> 7) & 0xFF).to(tl.uint8), (((bits >> 8) & 0x80) | (bits & 0x7F)).to(tl.uint8)


@triton.jit  # type: ignore[untyped-decorator]
def _joined(exponents: tl.tensor, mantissas: tl.tensor) -> tl.tensor:
    """The 16 bits that they are of."""
    high, low = exponents.to(tl.int32), mantissas.to(tl.int32)
    return (((low & 0x80) << 8) | (high << 7) | (low & 0x7F)).to(tl.int16)
