"""The oracle: decode attention in plain torch, one sequence after the other, on any device."""

import torch

from cachestore_kernels.attention.decode.pages import Scales
from cachestore_kernels.attention.naive import attend
from cachestore_kernels.attention.paging import Paged, Scoring, check_table
from cachestore_kernels.quant.naive import restore


def decode(
    query: torch.Tensor, paged: Paged, scoring: Scoring, scales: Scales | None, splits: int | None, prefetch: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[sequences, heads, value_dim]`, and sums `[sequences, heads]`; `splits` and `prefetch` change nothing here."""
    check_table(paged)
    packed = 2 if scales is not None and scales.form == "int4" else 1
    out = query.new_empty(*query.shape[:2], paged.values.shape[3] * packed)
    sums = torch.empty(query.shape[:2], device=query.device)
    for row, length in enumerate(paged.lengths.tolist()):
        pages = paged.table[row, : -(-length // paged.tokens)].long()
        keys, values = paged.keys[pages], paged.values[pages]  # [pages, kv_heads, page_tokens, head_dim]
        if scales is not None:
            zeros = (zero if zero is None else zero[pages] for zero in (scales.key_zeros, scales.value_zeros))
            key_zeros, value_zeros = zeros
            # values that 16 bits cannot hold are rounded to the query's dtype, as every product's arguments are
            keys = restore(keys, scales.keys[pages], key_zeros, scales.form, scales.group, 2).to(query.dtype)
            values = restore(values, scales.values[pages], value_zeros, scales.form, scales.group, 3).to(query.dtype)
        keys, values = (pool.transpose(0, 1).flatten(1, 2)[:, :length] for pool in (keys, values))
        position = torch.tensor([length - 1], device=query.device)
        out[row], sums[row] = (part[0] for part in attend(query[row : row + 1], keys, values, position, scoring))
    return out, sums
