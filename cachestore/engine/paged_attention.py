"""Attention that reads pages where they lie, by `cachestore_kernels`: nothing is gathered, padded or masked.

All rows of one token are one launch, all longer pieces another.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from cachestore.block import Attention, Half, Slot
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.ragged import Batch
from cachestore_kernels.attention.decode import decode
from cachestore_kernels.attention.prefill import prefill

WIDEST = 256
"""The largest head_dim that the kernels take."""


@dataclass(frozen=True)
class Tables:
    """Which pages a step's rows see, in packed order: `ones` rows of one token, then longer pieces.

    `pages` is [rows, pages of the longest], `lengths` [rows]; `starts` [pieces + 1] says at which of the pieces' tokens
    each begins, and `longest` how many the longest has. All int32.
    """

    ones: int
    pages: Tensor
    lengths: Tensor
    starts: Tensor
    longest: int

    @classmethod
    def of(cls, batch: Batch, memory: PageMemory) -> "Tables":
        rows = [row for group in batch.groups for row in group.rows]
        sizes = [len(row.tokens) for row in rows]
        ones = sizes.count(1)
        counts = [-(-row.end // memory.block_tokens) for row in rows]
        width = max(counts)
        pages = [[*row.pages[:count], *[0] * (width - count)] for row, count in zip(rows, counts, strict=True)]
        lengths = [row.end for row in rows]
        starts = [*accumulate(sizes[ones:], initial=0)]
        table, ends, begins = (
            torch.tensor(numbers, dtype=torch.int32, device=memory.device) for numbers in (pages, lengths, starts)
        )
        return cls(ones, table, ends, begins, max(sizes))


def served(slot: Slot) -> bool:
    """Whether the kernels attend as this slot wants it."""
    return slot.attention in (Attention.FULL, Attention.SLIDING) and max(slot.key_dim, slot.value_dim) <= WIDEST


def attend_in_place(
    memory: PageMemory, tables: Tables, slot: int, query: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """What the packed `query` [1, heads, tokens, dim] sees: [1, tokens, heads, value_dim].

    The KV of the step is in the pages already.
    """
    rows = query[0].transpose(0, 1)
    if rows.stride(2) != 1:
        rows = rows.contiguous()
    pools = memory.half(slot, Half.K), memory.half(slot, Half.V)
    window = memory.spec.slots[slot].window or None
    ones = tables.ones
    parts = []
    if ones:
        where = rows[:ones], *pools, tables.pages[:ones], tables.lengths[:ones]
        parts.append(decode(*where, scale=scale, window=window, soft_cap=softcap, method=memory.kernels)[0])
    if ones < len(tables.lengths):
        where = rows[ones:], *pools, tables.pages[ones:], tables.lengths[ones:]
        chunks = tables.starts, tables.longest
        parts.append(prefill(*where, *chunks, scale=scale, window=window, soft_cap=softcap, method=memory.kernels))
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None]
