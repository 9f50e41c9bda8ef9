"""torch's FlexAttention over pages, as a peer of decode: a block of its mask is a page, wherever that lies."""

from functools import partial

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.kernels_timing import Bench

QUERY_BLOCK = 128
"""Queries of a block of the mask, of which a decode step has one."""


def decode_with_flex(
    bench: Bench, query: torch.Tensor, table: torch.Tensor, kv_heads: int, tokens: int, length: int
) -> float:
    """Seconds of a decode step of `query` `[sequences, heads, dim]` over whole pages of `tokens` as `table` has them.

    It takes all pages as one sequence of KV, and the mask says which belong to whom. Compiled on a device; in the
    interpreter's run as torch computes it uncompiled.
    """
    count, _, dim = query.shape
    pages = int(table.numel())
    keys, values = (
        torch.randn(1, kv_heads, pages * tokens, dim, device=bench.device).to(query.dtype) for _ in range(2)
    )
    each = torch.full((count, 1, 1), length // tokens, dtype=torch.int32, device=bench.device)
    # the pages of each sequence first, then places for all others, as the mask has a column for every page
    places = torch.zeros(count, 1, 1, pages, dtype=torch.int32, device=bench.device)
    places[:, 0, 0, : table.shape[1]] = table
    none = torch.zeros_like(each), torch.zeros_like(places)
    mask = BlockMask.from_kv_blocks(
        *none, each, places, BLOCK_SIZE=(QUERY_BLOCK, tokens), seq_lengths=(1, pages * tokens), compute_q_blocks=False
    )
    attend = flex_attention if bench.interpret else torch.compile(flex_attention, dynamic=False)
    return bench.seconds(partial(attend, query[:, :, None], keys, values, block_mask=mask, enable_gqa=True))
