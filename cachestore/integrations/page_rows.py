"""Pages and blocks in host memory as rows: a row is K or V of one head and token.

numpy copies a row at once, where torch goes by its numbers, and by an index a good deal slower still. Both come as
`[pages, kv_heads, page_tokens, halves]`: one array if K and V are equally wide, else one for each.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachestore.block import Slot
from cachestore.engine.page_memory import PageMemory

Rows = NDArray[np.void]


def engine_rows(cache: Tensor, slot: Slot) -> tuple[Rows, ...]:
    """An engine's pages of one slot, in place; none if they are on a device or a row is not in one piece."""
    if cache.device.type != "cpu" or cache.stride(-1) != 1:
        return ()
    if slot.key_dim == slot.value_dim:
        return (_rows(cache, slot.key_dim),)
    halves = (cache[..., : slot.key_dim], slot.key_dim), (cache[..., slot.key_dim :], slot.value_dim)
    return tuple(_rows(half, dim) for half, dim in halves if dim)


def block_rows(memory: PageMemory, slot: int, block: int, per_block: int) -> list[Rows]:
    """One slot of a block in `memory`, in place, cut into the `per_block` pages of an engine."""
    heads, found = memory.spec.slots[slot].kv_heads, []
    for place in memory.heads(slot):
        if place.shape[-1]:
            rows = _rows(place[block], place.shape[-1])[..., 0]
            found.append(rows.reshape(-1, heads, per_block, rows.shape[1] // per_block).transpose(2, 1, 3, 0))
    return found


def copy_pages(target: Rows, targets: Sequence[int], source: Rows, sources: Sequence[int]) -> None:
    """Copies these pages of `source` to those of `target`."""
    for there, here in zip(targets, sources, strict=True):
        np.copyto(target[there], source[here])


def _rows(numbers: Tensor, dim: int) -> Rows:
    """The last axis as rows of `dim` numbers."""
    rows: Rows = numbers.view(torch.uint8).numpy().view(np.dtype((np.void, dim * numbers.element_size())))
    return rows
