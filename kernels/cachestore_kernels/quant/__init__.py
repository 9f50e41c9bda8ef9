"""How does KV lose its low bits on its way between pages and blocks?

`gather_quantised` reads pages and writes codes, `scatter_dequantised` reads codes and writes pages: one pass each, so
the KV never exists twice in full width. Keys keep their outliers in few channels, values do not; so keys are scaled
per channel, a group being neighbouring tokens, and values per token, a group being neighbouring channels (KIVI,
arXiv 2402.02750). Integers of 8 and 4 bits (256 or 16 steps from the least of a group), and floats of one byte, e4m3
and e5m2 (arXiv 2209.05433).
"""

from collections.abc import Sequence

import torch

from cachestore_kernels.method import Method, choose
from cachestore_kernels.paged.pools import check_pools
from cachestore_kernels.quant.forms import (
    FORMS,
    GROUPS,
    Form,
    Quantised,
    check_exponents,
    check_pools_float,
    check_quantised,
    new,
)

__all__ = ["FORMS", "GROUPS", "Form", "Quantised", "gather_quantised", "peaks", "scatter_dequantised"]


def gather_quantised(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    form: Form,
    group: int = 64,
    exponents: torch.Tensor | None = None,
    out: Quantised | None = None,
    method: Method | None = None,
) -> Quantised:
    """Quantise pages into blocks.

    keys, values, pages, heads, method: as for `cachestore_kernels.paged.gather`; float16, bfloat16 or float32.
    form, group: which codes, and how many elements share a scale (32, 64 or 128).
    exponents: int32 `[blocks, slots, 2]`, the units of each plane as powers of two, -126 to 127; zeros by default.
        Scales are float16 in these units, so that planes of any magnitude fit: `peaks` says of which they are.
    out: where to write; new by default.

    A scale is rounded up and a zero down, so that codes span their group: an integer comes back within half a scale
    and a rounding to the pools' dtype of what it was. The arithmetic is float32, rounded to nearest, ties to even, one
    operation after the other: naive and fused agree bit for bit. A group that holds an infinity, a NaN or more than
    65504 units comes back as NaN, its neighbours whole. Pages outside the pools are as in `gather`.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    if out is None:
        out = new(pools, form, group)
    check_quantised(out, pools)
    if (out.form, out.group) != (form, group):
        raise ValueError(f"out: made for {out.form}, group {out.group}; {form}, group {group} was asked for")
    choose(__name__, pools.device, method).gather(pools, out, check_exponents(exponents, pools))
    return out


def peaks(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    method: Method | None = None,
) -> torch.Tensor:
    """The largest magnitude of each plane: float32 `[blocks, slots, 2]`, NaN for one that holds a NaN.

    keys, values, pages, heads, method: as for `gather_quantised`.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    check_pools_float(pools)
    out = torch.empty(pools.blocks_shape[:3], device=pools.device)
    choose(__name__, pools.device, method).peaks(pools, out)
    return out


def scatter_dequantised(
    quantised: Quantised,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    exponents: torch.Tensor | None = None,
    method: Method | None = None,
) -> None:
    """Write what quantised blocks stand for into pages, rounded to the pools' dtype.

    quantised: what `gather_quantised` returns for the same arguments.
    Everything else as for `gather_quantised` and `cachestore_kernels.paged.scatter`.
    """
    pools = check_pools(keys, values, pages, heads)
    check_quantised(quantised, pools)
    choose(__name__, pools.device, method).scatter(quantised, pools, check_exponents(exponents, pools))
