"""Attention of one query a sequence, which is all that a decode step asks: bound by the bytes of KV it reads.

The sequence is split among programs so that few sequences fill the device, and a second pass combines what they found
(Flash-Decoding). Query heads of one KV head share its reads. Pages may hold the codes of `cachestore_kernels.quant`.
"""

import torch

from cachestore_kernels.attention.decode.pages import Scales, check_scales
from cachestore_kernels.attention.paging import check_paged, check_plain, check_scoring
from cachestore_kernels.method import Method, choose

__all__ = ["Scales", "decode"]


def decode(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    scales: Scales | None = None,
    splits: int | None = None,
    prefetch: bool = False,
    method: Method | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each query sees of its sequence: `[sequences, heads, value_dim]` in the query's dtype.

    With it the logarithm of the sum of exponentials, float32 `[sequences, heads]`: by it, results over two parts of a
    sequence can be joined. A sequence of length 0 gives zeros and minus infinity.

    query: `[sequences, heads, head_dim]`, float16, bfloat16 or float32, each at its sequence's last token, whose KV is
        in the pages already; head_dim up to 256.
    keys, values: pools `[pages, kv_heads, page_tokens, head_dim]` of the query's dtype, kv_heads dividing heads; the
        values' head_dim may differ. With `scales`, uint8 codes instead.
    table: int32 `[sequences, pages of the longest]`, the pages of each sequence in order.
    lengths: int32 `[sequences]`, tokens of each sequence, the query's included.
    scale: what scores are multiplied by; head_dim ** -0.5 by default.
    window: how many last tokens are seen; all by default.
    soft_cap: scores become soft_cap · tanh(score / soft_cap); not by default.
    scales: of pages that hold codes.
    splits: programs that share a sequence; by default as many as fill the device. The result's last bits depend on it.
    prefetch: ask for pages to be brought into the L2 cache ahead of their loads (arXiv 2504.06319). A hint: the result
        is the same, bit for bit. Without effect in naive, in the interpreter and on AMD's devices.
    method: fused for CUDA tensors where Triton is installed, else naive. Asking for fused on CPU needs
        `TRITON_INTERPRET=1` in the environment before this function first runs fused.

    A length beyond the table or a page outside the pool raises ValueError in naive. Fused does not wait for the device
    to look at them: there such tokens are never read, and count as not seen.

    Raises TypeError for a wrong dtype, ValueError for any other wrong argument.
    """
    paged = check_paged(query, keys, values, table, lengths)
    scoring = check_scoring(scale, window, soft_cap, query.shape[2])
    if len(query) != len(lengths):
        raise ValueError(f"query: one for each of {len(lengths)} sequences is needed, not {len(query)}")
    if max(query.shape[2], values.shape[3]) > 256:
        raise ValueError(f"query: head_dim up to 256, not {max(query.shape[2], values.shape[3])}")
    if splits is not None and not 1 <= splits <= 256:
        raise ValueError(f"splits: 1 to 256, or None to have it chosen, not {splits}")
    if scales is None:
        check_plain(query, paged)
    else:
        check_scales(scales, query, paged)
    run = choose(__name__, query.device, method).decode
    result: tuple[torch.Tensor, torch.Tensor] = run(query, paged, scoring, scales, splits, prefetch)
    return result
