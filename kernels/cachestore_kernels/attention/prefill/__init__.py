"""Causal attention of many queries a sequence: a chunk of a prompt over what precedes it and itself, ragged by batch.

The chunk's KV is in the pages already. Query heads of one KV head stand as rows of one tile, and share its reads.
"""

import torch

from cachestore_kernels.attention.paging import check_paged, check_plain, check_scoring
from cachestore_kernels.method import Method, choose

__all__ = ["prefill"]


def prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    method: Method | None = None,
) -> torch.Tensor:
    """What each query sees of its sequence: `[rows, heads, value_dim]` in the query's dtype.

    query: `[rows, heads, head_dim]`, float16, bfloat16 or float32; the rows of one sequence after those of another,
        each sequence's being its last tokens; head_dim up to 256.
    starts: int32 `[sequences + 1]`, the row at which each sequence begins, and the number of rows. A sequence may have
        no rows.
    longest: the most rows that a sequence has, which the host knows without asking the device.
    keys, values, table, lengths, scale, window, soft_cap, method: as for `cachestore_kernels.attention.decode.decode`;
        a query at position p sees tokens up to p, of a window the last `window` of these.

    Naive raises ValueError for lengths beyond the table, starts that do not fit the rows, the lengths or `longest`, and
    pages outside the pool. Fused does not wait for the device to look at them: there no page outside the pool is read
    and no row outside the query written, and what lies there counts as not seen; rows beyond `longest` are not written.

    Raises TypeError for a wrong dtype, ValueError for any other wrong argument.
    """
    paged = check_paged(query, keys, values, table, lengths)
    check_plain(query, paged)
    scoring = check_scoring(scale, window, soft_cap, query.shape[2])
    if max(query.shape[2], values.shape[3]) > 256:
        raise ValueError(f"query: head_dim up to 256, not {max(query.shape[2], values.shape[3])}")
    if starts.dtype != torch.int32:
        raise TypeError(f"starts: int32 is needed, not {starts.dtype}; pass starts.int()")
    if tuple(starts.shape) != (len(lengths) + 1,) or not starts.is_contiguous():
        raise ValueError(f"starts: [{len(lengths) + 1}] is needed, one more than sequences, not {list(starts.shape)}")
    if starts.device != query.device:
        raise ValueError(f"starts: on {starts.device}, query on {query.device}; move one of them")
    if longest < 0:
        raise ValueError(f"longest: 0 rows or more, not {longest}")
    result: torch.Tensor = choose(__name__, query.device, method).prefill(query, paged, starts, longest, scoring)
    return result
