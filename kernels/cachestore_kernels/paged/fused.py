"""Gather and scatter as one Triton launch for all slots and blocks.

A program moves one tile of rows of one block: K or V of one slot, a row being one token of one head. Pools
are separate allocations, so their addresses travel as an int64 table.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import Any, Final

import torch
import triton
import triton.language as tl

from cachestore_kernels.launch import launch
from cachestore_kernels.paged.pools import INTEGERS, Pools

INTERPRETED: Final[bool] = triton.knobs.runtime.interpret
"""Whether the kernel below runs in Triton's interpreter: TRITON_INTERPRET at the import of this file."""

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
    integers = blocks.view(INTEGERS[pools.dtype.itemsize])
    over_rows(_move, "paged", pools, (integers,), (blocks,), INTO_PAGES=into_pages)


def over_rows(
    kernel: Any, operation: str, pools: Pools, tensors: Sequence[torch.Tensor], wide: Sequence[torch.Tensor] = (),
    **constants: object,
) -> None:  # fmt: skip
    """Launch `kernel` with a program for each tile of rows of one block of K or V of one slot.

    tensors: what it takes between `pages` and `page_count`. wide: those of them that it reads or writes with the
    pools' step. constants: what it takes before `STEP`. `operation` names its settings.
    """
    count, slots, _, heads, tokens, head_dim = pools.blocks_shape
    if count == 0:
        return
    first = pools.keys[0]
    planes, strides, step = reach(pools, *wide)
    rows, tiles = tiling(pools, operation)
    # Triton launches on the current device, which need not be the tensors'
    with torch.cuda.device(first.get_device()):
        kernel[(count * tiles, 2 * slots)](
            planes,
            pools.pages,
            *tensors,
            first.shape[0],
            *strides,
            **constants,
            STEP=step,
            HEADS=heads,
            TOKENS=first.shape[2],
            EACH=tokens // first.shape[2],
            HEAD_DIM=head_dim,
            ROWS=rows,
            WIDTH=triton.next_power_of_2(head_dim),
            num_warps=launch(operation, pools.device)["num_warps"],
            enable_fp_fusion=False,
        )


def tiling(pools: Pools, operation: str) -> tuple[int, int]:
    """How many rows a program of `over_rows` takes, and how many programs a plane."""
    _, _, _, heads, tokens, head_dim = pools.blocks_shape
    row_bytes = triton.next_power_of_2(head_dim) * pools.dtype.itemsize
    rows = max(1, launch(operation, pools.device)["tile_bytes"] // row_bytes)
    return rows, triton.cdiv(heads * tokens, rows)


def reach(pools: Pools, *others: torch.Tensor) -> tuple[torch.Tensor, list[int], int]:
    """What `locate` needs: addresses of K and V of every slot, strides of page, head and token, and their unit.

    The unit, in elements, is the longest vector of up to 16 bytes that fits everywhere, in `others` too: strides are
    passed in it so that the compiler can see how wide it may load. ValueError if memory is not aligned to its elements.
    """
    size = pools.dtype.itemsize
    first = pools.keys[0]
    strides = [n * size for n in first.stride()[:3]]
    addresses = pools.addresses()
    step = gcd(VECTOR_BYTES, first.shape[3] * size, *(other.data_ptr() for other in others), *strides, *addresses)
    if step < size:
        raise ValueError("keys, values, blocks: memory not aligned to the elements; copy it with .clone()")
    return table(tuple(addresses), pools.device), [n // step for n in strides], step // size


def table(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """`addresses` as int64 on the device, for launches on the current stream."""
    there = _copied(addresses, device)
    if device.type == "cuda":
        # once it is not kept any more, its memory may be another's only after this stream has read it
        there.record_stream(torch.cuda.current_stream(device))
    return there


@lru_cache(maxsize=256)
def _copied(addresses: tuple[int, ...], device: torch.device) -> torch.Tensor:
    # kept, as a copy from the host waits until the device has done all that was launched before
    return torch.tensor(addresses, device=device)


VARYING: Final = ("pages", "shifts", "page_count", "page_stride", "head_stride", "token_stride")
"""Arguments of kernels whose values, as being 1 or a multiple of 16, must not make another kernel of them: a request
would wait for its compilation. How wide vectors may be is `STEP`."""


@triton.jit(do_not_specialize=VARYING)  # type: ignore[untyped-decorator]
def _move(
    planes: tl.tensor,  # [slots * 2] addresses
    pages: tl.tensor,  # [blocks, pages of a block]
    blocks: tl.tensor,  # [blocks, slots * 2, rows, HEAD_DIM]
    page_count: tl.tensor,
    page_stride: tl.tensor,
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    INTO_PAGES: tl.constexpr,
    STEP: tl.constexpr,  # elements per unit of the strides
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
    dim = tl.arange(0, WIDTH)[None, :]  # [1, WIDTH]

    head, token = row // (TOKENS * EACH), row % (TOKENS * EACH)
    at, inside = locate(
        planes, plane, pages, page_count, block, head, token,
        page_stride, head_stride, token_stride, STEP, TOKENS, EACH, blocks.dtype.element_ty,
    )  # fmt: skip
    in_page = at[:, None] + dim  # [ROWS, WIDTH]

    first = (block.to(tl.int64) * tl.num_programs(1) + plane) * rows
    in_block = blocks + (first + row)[:, None] * HEAD_DIM + dim  # [ROWS, WIDTH]

    page_mask = (inside & (row < rows))[:, None] & (dim < HEAD_DIM)
    if INTO_PAGES:
        tl.store(in_page, tl.load(in_block, mask=page_mask), mask=page_mask)
    else:
        block_mask = (row < rows)[:, None] & (dim < HEAD_DIM)
        tl.store(in_block, tl.load(in_page, mask=page_mask, other=0), mask=block_mask)


@triton.jit  # type: ignore[untyped-decorator]
def locate(
    planes: tl.tensor,  # addresses, as `Pools.addresses` gives them
    plane: tl.tensor,  # which of them
    pages: tl.tensor,  # [blocks, pages of a block]
    page_count: tl.tensor,
    block: tl.tensor,
    head: tl.tensor,  # counted from the first head wanted
    token: tl.tensor,  # of the block
    page_stride: tl.tensor,  # in units of STEP elements, as are the others
    head_stride: tl.tensor,
    token_stride: tl.tensor,
    STEP: tl.constexpr,
    TOKENS: tl.constexpr,  # of a page
    EACH: tl.constexpr,  # pages of a block
    ELEMENT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Where the elements of each (head, token) begin, and whether its page lies inside the pool."""
    page = tl.load(pages + block.to(tl.int64) * EACH + token // TOKENS)
    # int64 before any stride: pools may be larger than 2**31 elements
    row = head.to(tl.int64) * head_stride + (token % TOKENS).to(tl.int64) * token_stride
    offset = (page * page_stride + row) * STEP
    base = tl.load(planes + plane).to(tl.pointer_type(ELEMENT))
    base = tl.multiple_of(base, STEP * ELEMENT.primitive_bitwidth // 8)
    return base + offset, (page >= 0) & (page < page_count)
