"""The oracle: prefill attention in plain torch, one sequence after the other, on any device."""

from itertools import pairwise

import torch

from cachestore_kernels.attention.naive import attend
from cachestore_kernels.attention.paging import Paged, Scoring, check_table


def prefill(query: torch.Tensor, paged: Paged, starts: torch.Tensor, longest: int, scoring: Scoring) -> torch.Tensor:
    """`[rows, heads, value_dim]`."""
    check_table(paged)
    bounds = list(pairwise(starts.tolist()))
    rows = [end - start for start, end in bounds]
    fits = all(0 <= count <= length for count, length in zip(rows, paged.lengths.tolist(), strict=True))
    if not fits or starts[0] != 0 or starts[-1] != len(query) or max(rows, default=0) > longest:
        raise ValueError(
            f"starts: from 0 to {len(query)} rows, no sequence with more than `longest` = {longest} or its length, "
            f"not {starts.tolist()}"
        )
    out = query.new_empty(*query.shape[:2], paged.values.shape[3])
    for sequence, (start, end) in enumerate(bounds):
        length = int(paged.lengths[sequence])
        pages = paged.table[sequence, : -(-length // paged.tokens)].long()
        keys, values = (pool[pages].transpose(0, 1).flatten(1, 2)[:, :length] for pool in (paged.keys, paged.values))
        positions = torch.arange(length - (end - start), length, device=query.device)
        out[start:end], _ = attend(query[start:end], keys, values, positions, scoring)
    return out
