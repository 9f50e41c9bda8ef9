"""How do blocks leave an engine's pages, and how do they get back in?

A page holds the KV of consecutive tokens of one slot; a block is one page, or several one after the other. The K of
a slot is one pool of pages, its V another. A pool is passed as a view `[pages, heads, tokens, head_dim]` with any
strides as long as the last is 1, so every engine's layout is a view away:

- `[pages, heads, tokens, head_dim]`: as it is
- `[pages, tokens, heads, head_dim]`: `pool.transpose(1, 2)`
- `[pages, heads, tokens, 2 * head_dim]`: `k, v = pool.chunk(2, dim=3)`

Blocks are canonical: `[blocks, slots, 2, heads, tokens, head_dim]`, contiguous, 2 standing for K and V, heads
being the range asked for. All slots and blocks of a call are one launch. Elements are moved as integers of
their width: NaN payloads, signed zeros and fp8 arrive bit for bit.
"""

from collections.abc import Sequence

import torch

from cachestore_kernels.method import Method, choose
from cachestore_kernels.paged.pools import check_blocks, check_pools

__all__ = ["Method", "gather", "scatter"]


def gather(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    out: torch.Tensor | None = None,
    method: Method | None = None,
) -> torch.Tensor:
    """Copy pages into blocks `[blocks, slots, 2, heads, tokens, head_dim]`.

    keys, values: one pool per slot, each `[pages, heads, tokens, head_dim]`, equal in shape, strides, dtype
        and device; any real dtype of 1, 2, 4 or 8 bytes.
    pages: int64 `[blocks]`, or `[blocks, pages of a block]` for blocks longer than a page, on the device of the
        pools; a page may be named more than once.
    heads: the heads to copy, a slice or range with step 1 inside `[0, heads)`; all by default.
    out: where to write, contiguous, of the result's shape and the pools' dtype and device; new by default.
    method: fused for CUDA tensors where Triton is installed, else naive. Asking for fused on CPU needs
        `TRITON_INTERPRET=1` in the environment before this function first runs fused.

    A page id outside the pool raises ValueError in naive. Fused does not wait for the device to look at ids:
    there such a page is never read, and its tokens are filled with zeros.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for a wrong shape, stride, range,
    device or method, and in fused for memory that is not aligned to its elements.
    """
    pools = check_pools(keys, values, pages, heads)
    if out is None:
        out = torch.empty(pools.blocks_shape, dtype=pools.dtype, device=pools.device)
    check_blocks("out", out, pools)
    choose(__name__, pools.device, method).gather(pools, out)
    return out


def scatter(
    blocks: torch.Tensor,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    method: Method | None = None,
) -> None:
    """Copy blocks into pages; other pages and heads stay untouched.

    blocks: `[blocks, slots, 2, heads, tokens, head_dim]`, contiguous, of the pools' dtype and device: what
        `gather` returns for the same arguments.
    pages: int64 as for `gather`, each page at most once: two blocks written to one page would race.
    keys, values, heads, method: as for `gather`.

    A page id that repeats or lies outside the pool raises ValueError in naive, before anything is written.
    Fused skips a page outside the pool, and leaves a repeated one with either block or a mixture of them.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for a wrong shape, stride, range,
    device or method, and in fused for memory that is not aligned to its elements.
    """
    pools = check_pools(keys, values, pages, heads)
    check_blocks("blocks", blocks, pools)
    choose(__name__, pools.device, method).scatter(blocks, pools)
