"""How are the bits of KV that can be foretold parted from those that cannot? Without loss, between pages and blocks.

Of a float only the exponent can be foretold; sign and mantissa are noise. `gather_split` gives each their byte: what a
coder of entropy on the host takes. `gather_packed` goes on without a host: channels of keys and values keep their
magnitude from token to token, so an exponent is written in a few bits as its distance below the largest of its channel,
and those few that lie farther below are written beside. Both work in one pass over the pages.

The byte called exponent is that of a bfloat16, and the exponent with three bits of mantissa of a float16; split, its
last bit comes first, so that only the sign has changed places.
"""

from collections.abc import Sequence

import torch

from cachestore_kernels.method import Method, choose
from cachestore_kernels.paged.pools import check_pools
from cachestore_kernels.shuffle.forms import GROUP, Packed, Split, check_packed, check_split, new_packed, new_split

__all__ = ["GROUP", "Packed", "Split", "gather_packed", "gather_split", "scatter_packed", "scatter_split"]


def gather_split(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    out: Split | None = None,
    method: Method | None = None,
) -> Split:
    """Copy pages into blocks, exponents and the rest apart, bit for bit.

    keys, values, pages, heads, method: as for `cachestore_kernels.paged.gather`; float16 or bfloat16.
    out: where to write; new by default.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    if out is None:
        out = new_split(pools)
    check_split(out, pools)
    choose(__name__, pools.device, method).gather_split(pools, out)
    return out


def scatter_split(
    split: Split,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    method: Method | None = None,
) -> None:
    """Join what `gather_split` returns for the same arguments, in pages, as `cachestore_kernels.paged.scatter` does."""
    pools = check_pools(keys, values, pages, heads)
    check_split(split, pools)
    choose(__name__, pools.device, method).scatter_split(split, pools)


def gather_packed(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    width: int | None = None,
    room: int | None = None,
    out: Packed | None = None,
    method: Method | None = None,
) -> Packed:
    """Copy pages into blocks, exponents packed.

    keys, values, pages, heads, method: as for `cachestore_kernels.paged.gather`; float16 or bfloat16.
    width: bits of an exponent, 1 to 7; 3 for bfloat16 and 6 for float16 by default.
    room: how many exponents of `GROUP` tokens of one head may escape; one of sixteen by default.
    out: where to write, made for the same `width` and `room`; new by default.

    Nothing is lost where `Packed.whole` says so, which is for the caller to look at: a block that is not whole, as one
    half of zeros may be, is for `gather_split`, or for more room.

    Raises TypeError for a wrong dtype or kind of argument, ValueError for any other wrong argument.
    """
    pools = check_pools(keys, values, pages, heads)
    if out is None:
        out = new_packed(pools, width, room)
    check_packed(out, pools)
    if (width or out.width, room or out.escapes.shape[-1]) != (out.width, out.escapes.shape[-1]):
        raise ValueError(f"out: made for width {out.width}, room {out.escapes.shape[-1]}; pass the same or neither")
    choose(__name__, pools.device, method).gather_packed(pools, out)
    return out


def scatter_packed(
    packed: Packed,
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range = slice(None),
    *,
    method: Method | None = None,
) -> None:
    """Unpack what `gather_packed` returns for the same arguments into pages.

    A group that cannot be had back raises ValueError in naive, before anything is written; fused does not wait for the
    device to look, and leaves such a group's part of the pages as it was. Everything else as for
    `cachestore_kernels.paged.scatter`.
    """
    pools = check_pools(keys, values, pages, heads)
    check_packed(packed, pools)
    choose(__name__, pools.device, method).scatter_packed(packed, pools)
