"""Gather and scatter as one Triton launch for all slots and blocks.

A program moves one tile of rows of one block: K or V of one slot, a row being one token of one head. Pools
are separate allocations, so their addresses travel as an int64 table.
"""

from math import gcd
from typing import Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.paged.pools import INTEGERS, Pools

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

TILE_BYTES = 8192
VECTOR_BYTES = 16


def gather(pools: Pools, out: torch.Tensor) -> None:
    """Fill `out` `[blocks, slots, 2, heads, tokens, head_dim]`; zeros where a page lies outside the pools.

    ValueError if memory is not aligned to its elements, which no launch could move.
    """
    _launch(pools, out, into_pages=False)


def scatter(blocks: torch.Tensor, pools: Pools) -> None:
    """Write `blocks` into their pages; pages outside the pools are skipped. ValueError as for `gather`."""
    _launch(pools, blocks, into_pages=True)


def _launch(pools: Pools, blocks: torch.Tensor, *, into_pages: bool) -> None:
    count, slots, _, heads, tokens, head_dim = pools.blocks_shape
    if count == 0:
        return
    first = pools.keys[0]
    size = pools.dtype.itemsize
    strides = [n * size for n in first.stride()[:3]]
    start = pools.heads.start * strides[1]
    pairs = zip(pools.keys, pools.values, strict=True)
    planes = [pool.data_ptr() + start for pair in pairs for pool in pair]
    # the longest vector that fits everywhere; strides are passed in this unit so that the compiler can see it
    step = gcd(VECTOR_BYTES, head_dim * size, blocks.data_ptr(), *strides, *planes)
    if step < size:
        raise ValueError("keys, values, blocks: memory not aligned to the elements; copy it with .clone()")
    width = triton.next_power_of_2(head_dim)
    rows = max(1, TILE_BYTES // (width * size))
    tiles = triton.cdiv(heads * tokens, rows)
    # Triton launches on the current device, which need not be the tensors'
    with torch.cuda.device(blocks.get_device()):
        _move[(count * tiles, 2 * slots)](
            torch.tensor(planes, device=pools.device),
            pools.pages,
            blocks.view(INTEGERS[size]),
            first.shape[0],
            heads * tokens,
            tiles,
            *(n // step for n in strides),
            INTO_PAGES=into_pages,
            STEP=step // size,
            TOKENS=tokens,
            HEAD_DIM=head_dim,
            ROWS=rows,
            WIDTH=width,
        )


@triton.jit  # type: ignore[untyped-decorator]
def _move(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks]
    blocks: tl.tensor,  # [blocks, slots * 2, rows, HEAD_DIM]
    page_count: tl.tensor,
    rows: tl.tensor,
    tiles: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
    STEP: tl.constexpr,  # elements per unit of the strides
    TOKENS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    block = tl.program_id(0) // tiles
    plane = tl.program_id(1)
    row = (tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    dim = tl.arange(0, WIDTH)[None, :]  # [1, WIDTH]

    # int64 before any stride: pools and blocks may be larger than 2**31 elements
    page = tl.load(pages + block)
    head = (row // TOKENS).to(tl.int64)
    token = (row % TOKENS).to(tl.int64)
    offset = (page * page_stride + head * head_stride + token * token_stride) * STEP  # [ROWS]
    element = blocks.dtype.element_ty
    base = tl.load(planes + plane).to(tl.pointer_type(element))
    base = tl.multiple_of(base, STEP * element.primitive_bitwidth // 8)
    in_page = base + offset[:, None] + dim  # [ROWS, WIDTH]

    first = (block.to(tl.int64) * tl.num_programs(1) + plane) * rows
    in_block = blocks + (first + row)[:, None] * HEAD_DIM + dim  # [ROWS, WIDTH]

    # a page outside the pool has no rows
    page_rows = tl.where((page >= 0) & (page < page_count), rows, 0)
    page_mask = (row < page_rows)[:, None] & (dim < HEAD_DIM)
    if INTO_PAGES:
        tl.store(in_page, tl.load(in_block, mask=page_mask), mask=page_mask)
    else:
        block_mask = (row < rows)[:, None] & (dim < HEAD_DIM)
        tl.store(in_block, tl.load(in_page, mask=page_mask, other=0), mask=block_mask)
