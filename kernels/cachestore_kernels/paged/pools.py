"""What gather and scatter work on, after its arguments have been checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type that moves an element of so many bytes without looking at its value."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Pools equal in shape, strides, dtype and device; the pages wanted, and the heads wanted of each."""

    keys: tuple[torch.Tensor, ...]  # per slot [pages, heads, tokens, head_dim]
    values: tuple[torch.Tensor, ...]  # per slot [pages, heads, tokens, head_dim]
    pages: torch.Tensor  # [blocks, pages of a block]
    heads: range

    @property
    def dtype(self) -> torch.dtype:
        return self.keys[0].dtype

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    @property
    def blocks_shape(self) -> tuple[int, ...]:
        """`(blocks, slots, 2, heads, tokens, head_dim)` of the canonical blocks."""
        _, _, page_tokens, head_dim = self.keys[0].shape
        blocks, each = self.pages.shape
        return (blocks, len(self.keys), 2, len(self.heads), each * page_tokens, head_dim)

    def addresses(self) -> list[int]:
        """Where the first head wanted of page 0 begins, for K and V of every slot."""
        start = self.heads.start * self.keys[0].stride(1) * self.dtype.itemsize
        return [pool.data_ptr() + start for pair in zip(self.keys, self.values, strict=True) for pool in pair]


def check_pools(
    keys: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    pages: torch.Tensor,
    heads: slice | range,
) -> Pools:
    """The arguments as `Pools`; TypeError or ValueError names the argument at fault and the way out."""
    if isinstance(keys, torch.Tensor) or isinstance(values, torch.Tensor):
        raise TypeError("keys, values: a sequence with one pool per slot each; wrap a single pool in a list")
    if not keys or len(keys) != len(values):
        raise ValueError(f"keys, values: one pool per slot each; got {len(keys)} and {len(values)}")
    first = keys[0]
    if first.ndim != 4 or 0 in first.shape[1:]:
        raise ValueError(f"keys[0]: pass a view [pages, heads, tokens, head_dim], not {list(first.shape)}")
    if first.stride(3) != 1:
        raise ValueError(
            f"keys[0]: stride 1 along head_dim is needed, not {first.stride(3)}; copy it with .contiguous() "
            "or transpose the other dimensions only"
        )
    if first.dtype.is_complex or first.dtype.itemsize not in INTEGERS:
        raise TypeError(f"keys[0]: a real dtype of 1, 2, 4 or 8 bytes is needed, not {first.dtype}")
    for name, pools in (("keys", keys), ("values", values)):
        for slot, pool in enumerate(pools):
            _check_alike(f"{name}[{slot}]", pool, first)
    if pages.dtype != torch.int64:
        raise TypeError(f"pages: int64 is needed, not {pages.dtype}; pass pages.long()")
    if pages.ndim not in (1, 2) or 0 in pages.shape[1:]:
        raise ValueError(f"pages: [blocks] or [blocks, pages of a block] is needed, not {list(pages.shape)}")
    if pages.device != first.device:
        raise ValueError(f"pages: on {pages.device}, the pools on {first.device}; move one of them")
    each = pages.shape[1] if pages.ndim == 2 else 1
    pages = pages.reshape(len(pages), each).contiguous()
    return Pools(tuple(keys), tuple(values), pages, _head_range(heads, first.shape[1]))


def check_blocks(name: str, blocks: torch.Tensor, pools: Pools) -> None:
    """Refuse blocks that do not have the shape, dtype, device and order that `pools` ask for."""
    if blocks.dtype != pools.dtype:
        raise TypeError(f"{name}: the pools' dtype {pools.dtype} is needed, not {blocks.dtype}")
    if tuple(blocks.shape) != pools.blocks_shape:
        raise ValueError(
            f"{name}: [blocks, slots, 2, heads, tokens, head_dim] is {list(pools.blocks_shape)} here, "
            f"not {list(blocks.shape)}"
        )
    if blocks.device != pools.device:
        raise ValueError(f"{name}: on {blocks.device}, the pools on {pools.device}; move one of them")
    if not blocks.is_contiguous():
        raise ValueError(f"{name}: contiguous memory is needed; pass {name}.contiguous() or a new tensor")


def _check_alike(name: str, pool: torch.Tensor, first: torch.Tensor) -> None:
    if pool.dtype != first.dtype:
        raise TypeError(f"{name}: {pool.dtype} differs from {first.dtype} of keys[0]; convert one of them")
    if pool.shape != first.shape or pool.stride() != first.stride():
        raise ValueError(
            f"{name}: shape {list(pool.shape)}, strides {pool.stride()} differ from {list(first.shape)}, "
            f"{first.stride()} of keys[0]; call once per group of slots that are alike"
        )
    if pool.device != first.device:
        raise ValueError(f"{name}: on {pool.device}, keys[0] on {first.device}; call once per device")


def _head_range(heads: slice | range, count: int) -> range:
    if not isinstance(heads, slice | range):
        raise TypeError(f"heads: a slice or range is needed, not {heads!r}; pass range(start, stop)")
    if heads.step not in (None, 1):
        raise ValueError(f"heads: step 1 is needed, not {heads.step}; call once per run of neighbours")
    start = 0 if heads.start is None else heads.start
    stop = count if heads.stop is None else heads.stop
    # not clipped as Python slices are: fewer heads than asked for would shift every plane behind them
    if not 0 <= start < stop <= count:
        raise ValueError(f"heads: [{start}, {stop}) must be non-empty and lie inside the pools' [0, {count})")
    return range(start, stop)
