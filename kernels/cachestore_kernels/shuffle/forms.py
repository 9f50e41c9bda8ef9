"""What split and packed KV look like, and the checks of their arguments."""

from typing import NamedTuple

import torch

from cachestore_kernels.paged.pools import Pools

GROUP = 32
"""Tokens of a channel that share a top; fewer at the end of a block that does not divide."""

WIDEST = 7
"""Bits of a code: with eight nothing would be won."""

LONGEST = 512
"""Channels of a group that a program can hold: eight bytes an element, in 227 KiB of an H200's shared memory."""

_WIDTHS = {torch.bfloat16: 3, torch.float16: 6}
"""Enough for seven binary orders of magnitude of a channel, which leaves a few of a hundred elements to escape."""


class Split(NamedTuple):
    """Two bytes of each element, apart."""

    exponents: torch.Tensor
    """uint8 `[blocks, slots, 2, heads, tokens, head_dim]`: bit 7, then bits 14 to 8; so bits 15 and 7 have
    changed places."""
    mantissas: torch.Tensor
    """Of the same shape: the sign, then bits 6 to 0."""


class Packed(NamedTuple):
    """The exponents in `width` bits each; a group is `GROUP` tokens of one head of K or V of a slot.

    A code is how far an exponent lies below its channel's top. The largest code says that it lies as far or farther,
    and that its byte is the next in `escapes`, in the order of tokens and then channels.
    """

    width: int
    codes: torch.Tensor
    """uint8 `[blocks, slots, 2, heads, width, tokens, ceil(head_dim / 8)]`: one bit of each of eight codes in a byte,
    the lowest bit of all codes first, the first of eight in the lowest bit of a byte."""
    mantissas: torch.Tensor
    """As of `Split`."""
    tops: torch.Tensor
    """uint8 `[blocks, slots, 2, heads, groups, head_dim]`: the largest exponent of each channel."""
    escapes: torch.Tensor
    """uint8 `[blocks, slots, 2, heads, groups, room]`, zeros behind the last."""
    counts: torch.Tensor
    """int32 `[blocks, slots, 2, heads, groups]`: how many escape; if more than `room`, the group cannot be had back."""

    def whole(self) -> torch.Tensor:
        """Which blocks can be had back: bool `[blocks]`, on the device."""
        return (self.counts <= self.escapes.shape[-1]).flatten(1).all(1)


def check_halves(pools: Pools) -> None:
    """TypeError unless the pools hold floats of two bytes."""
    if pools.dtype not in _WIDTHS:
        raise TypeError(f"keys[0]: float16 or bfloat16 is needed to take exponents apart, not {pools.dtype}")


def new_split(pools: Pools) -> Split:
    """Memory for what `pools` names, split."""
    check_halves(pools)
    exponents, mantissas = (torch.empty(pools.blocks_shape, dtype=torch.uint8, device=pools.device) for _ in range(2))
    return Split(exponents, mantissas)


def new_packed(pools: Pools, width: int | None, room: int | None) -> Packed:
    """Memory for what `pools` names, packed."""
    check_halves(pools)
    width = _WIDTHS[pools.dtype] if width is None else width
    room = max(1, GROUP * pools.blocks_shape[-1] // 16) if room is None else room
    made = [torch.empty(shape, dtype=dtype, device=pools.device) for _, shape, dtype in _parts(pools, width, room)]
    return Packed(width, *made)


def check_split(split: Split, pools: Pools) -> None:
    """Refuse what is not `pools` split, whole and contiguous."""
    check_halves(pools)
    for name, tensor in zip(Split._fields, split, strict=True):
        _check(name, tensor, pools.blocks_shape, torch.uint8, pools.device)


def check_packed(packed: Packed, pools: Pools) -> None:
    """Refuse what is not `pools` packed, whole and contiguous."""
    check_halves(pools)
    room = packed.escapes.shape[-1] if packed.escapes.ndim else 0
    for name, shape, dtype in _parts(pools, packed.width, room):
        _check(name, getattr(packed, name), shape, dtype, pools.device)


def _parts(pools: Pools, width: int, room: int) -> list[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and dtype of all tensors of `Packed`."""
    if not 1 <= width <= WIDEST:
        raise ValueError(f"width: 1 to {WIDEST} bits, not {width}")
    *planes, tokens, head_dim = pools.blocks_shape
    if head_dim > LONGEST:
        raise ValueError(f"keys[0]: up to {LONGEST} channels can be packed, not {head_dim}; split them")
    groups = -(-tokens // GROUP)
    # no more can escape, and the kernel's tile of them is a power of two that Triton must be able to hold
    if not 1 <= room <= GROUP * head_dim:
        raise ValueError(f"room: 1 to {GROUP * head_dim} escapes of a group, not {room}")
    return [
        ("codes", (*planes, width, tokens, -(-head_dim // 8)), torch.uint8),
        ("mantissas", pools.blocks_shape, torch.uint8),
        ("tops", (*planes, groups, head_dim), torch.uint8),
        ("escapes", (*planes, groups, room), torch.uint8),
        ("counts", (*planes, groups), torch.int32),
    ]


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name}: {dtype} is needed, not {tensor.dtype}")
    if tuple(tensor.shape) != shape or not tensor.is_contiguous():
        raise ValueError(f"{name}: contiguous {list(shape)} is needed here, not {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name}: on {tensor.device}, the pools on {device}; move one of them")
