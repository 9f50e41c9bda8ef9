"""The oracle: gather and scatter without a kernel, on any device."""

from collections.abc import Iterator
from typing import Any

import torch

from cachestore_kernels.paged.pools import INTEGERS, Pools


def gather(pools: Pools, out: torch.Tensor) -> None:
    """Fill `out` `[blocks, slots, 2, heads, tokens, head_dim]`; ValueError for a page outside the pools."""
    _check_pages(pools)
    for pool, planes in _pairs(pools, out):
        for number, pages in enumerate(pools.pages.unbind(1)):
            torch.index_select(pool, 0, pages, out=planes[:, :, number])


def scatter(blocks: torch.Tensor, pools: Pools) -> None:
    """Write `blocks` into their pages; ValueError for a page outside the pools or repeated."""
    _check_pages(pools)
    if len(set(pools.pages.flatten().tolist())) != pools.pages.numel():
        raise ValueError("pages: every page may be written once per call; drop the repeated ids")
    ids = pools.pages.tolist()
    for pool, planes in _pairs(pools, blocks):
        target, source = _assigned(pool), _assigned(planes)
        for block, pages in enumerate(ids):
            for number, page in enumerate(pages):
                target[page] = source[block, :, number]


def _assigned(tensor: torch.Tensor) -> Any:
    """What is indexed to copy pages: on a CPU torch's copies are slower than numpy's, which are memcpy's."""
    return tensor.numpy() if tensor.is_cpu else tensor


def _pairs(pools: Pools, blocks: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For K and V of every slot: the wanted heads of its pool, and their place in all blocks."""
    count, each = pools.pages.shape
    _, _, tokens, head_dim = pools.keys[0].shape
    heads = len(pools.heads)
    integer = INTEGERS[pools.dtype.itemsize]
    for slot, sides in enumerate(zip(pools.keys, pools.values, strict=True)):
        for side, pool in enumerate(sides):
            wanted = pool[:, pools.heads.start : pools.heads.stop]  # [pages, heads, tokens, head_dim]
            # [blocks, heads, pages of a block, tokens, head_dim]
            planes = blocks[:, slot, side].view(count, heads, each, tokens, head_dim)
            yield wanted.view(integer), planes.view(integer)


def _check_pages(pools: Pools) -> None:
    count = pools.keys[0].shape[0]
    outside = pools.pages[(pools.pages < 0) | (pools.pages >= count)]
    if outside.numel():
        raise ValueError(f"pages: {outside[0].item()} lies outside [0, {count}); pass ids of existing pages")
