"""The oracle: exponents taken apart and packed in plain torch, on any device."""

import torch

from cachestore_kernels.paged import naive
from cachestore_kernels.paged.pools import Pools
from cachestore_kernels.shuffle.forms import GROUP, Packed, Split


def gather_split(pools: Pools, out: Split) -> None:
    """Fill `out`; ValueError for a page outside the pools."""
    blocks = torch.empty(pools.blocks_shape, dtype=pools.dtype, device=pools.device)
    naive.gather(pools, blocks)
    bits = blocks.view(torch.int16)
    out.exponents.copy_(bits & 0x80 | bits >> 8 & 0x7F)
    out.mantissas.copy_(bits >> 8 & 0x80 | bits & 0x7F)


def scatter_split(split: Split, pools: Pools) -> None:
    """Write what `split` holds into its pages; ValueError for a page outside the pools or repeated."""
    exponents, mantissas = split.exponents.to(torch.int16), split.mantissas.to(torch.int16)
    bits = (mantissas & 0x80) << 8 | (exponents & 0x7F) << 8 | exponents & 0x80 | mantissas & 0x7F
    naive.scatter(bits.view(pools.dtype), pools)


def gather_packed(pools: Pools, out: Packed) -> None:
    """Fill `out`; ValueError for a page outside the pools."""
    split = Split(torch.empty_like(out.mantissas), out.mantissas)
    gather_split(pools, split)
    last, room = (1 << out.width) - 1, out.escapes.shape[-1]
    whole = split.exponents << 1 | split.exponents >> 7
    for number, exponents in enumerate(torch.split(whole, GROUP, 4)):  # [..., tokens of the group, head_dim]
        tops = exponents.amax(4, keepdim=True)
        out.tops[..., number, :] = tops[..., 0, :]
        codes = (tops - exponents).clamp(max=last)
        out.codes[..., number * GROUP : number * GROUP + codes.shape[4], :] = _packed(codes, out.width)
        escaped, rank = _ranked(codes == last, room)
        out.counts[..., number] = escaped.sum(-1)
        escapes = torch.zeros(*escaped.shape[:-1], room + 1, dtype=torch.uint8, device=pools.device)
        escapes.scatter_(-1, rank, exponents.flatten(4))
        out.escapes[..., number, :] = escapes[..., :room]


def scatter_packed(packed: Packed, pools: Pools) -> None:
    """Write what `packed` holds into its pages; ValueError for a group that cannot be had back, and as `scatter`."""
    last, room = (1 << packed.width) - 1, packed.escapes.shape[-1]
    if not packed.whole().all():
        raise ValueError(f"counts: a group has more escapes than the room of {room}; split that block, or give more")
    exponents = torch.empty_like(packed.mantissas)
    for number, group in enumerate(torch.split(exponents, GROUP, 4)):
        tokens = slice(number * GROUP, number * GROUP + group.shape[4])
        codes = _unpacked(packed.codes[..., tokens, :], group.shape[5])
        _, rank = _ranked(codes == last, room)
        # what points behind the room reads a zero, as in fused
        escapes = torch.nn.functional.pad(packed.escapes[..., number, :], (0, 1))
        near = packed.tops[..., number, None, :] - codes
        group.copy_(torch.where(codes == last, escapes.gather(-1, rank).view(group.shape), near))
    scatter_split(Split(exponents >> 1 | exponents << 7, packed.mantissas), pools)


def _ranked(escaped: torch.Tensor, room: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[..., tokens, head_dim]` in one row, and how many escape before each; `room` where that is of no use."""
    escaped = escaped.flatten(4)
    rank = escaped.cumsum(-1) - 1
    return escaped, rank.masked_fill(~escaped, room).clamp(max=room)


def _packed(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Bits of `codes` `[..., tokens, head_dim]`: `[..., width, tokens, bytes]`."""
    padded = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % 8))
    eights = padded.view(*padded.shape[:-1], -1, 8)
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return torch.stack([((eights >> bit & 1) << places).sum(-1) for bit in range(width)], -3).to(torch.uint8)


def _unpacked(bits: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Codes `[..., tokens, head_dim]` of `[..., width, tokens, bytes]`."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    each = (bits[..., None] >> places & 1).flatten(-2)[..., :head_dim]
    weights = torch.arange(bits.shape[-3], dtype=torch.uint8, device=bits.device)[:, None, None]
    return (each << weights).sum(-3).to(torch.uint8)
