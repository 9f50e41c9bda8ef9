"""The KV of one slot of one sequence, in memory that grows."""

import torch
from torch import Tensor

from cachestore.block import Half, Slot
from cachestore.errors import Mismatch

_SMALLEST = 256
"""Tokens of the first allocation."""


def _capacity(tokens: int) -> int:
    """Room for `tokens` tokens: a power of two, and a function of nothing else.

    So attention sees the same strides at the same position, however the tokens before came in.
    """
    return max(_SMALLEST, 1 << (tokens - 1).bit_length())


class SlotBuffer:
    """K and V as `[1, kv_heads, capacity, dim]`, of which the first `length` tokens are valid."""

    def __init__(self, slot: Slot, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        self._slot = slot
        self._halves = {
            half: torch.empty(1, slot.kv_heads, 0, dim, dtype=dtype, device=device)
            for half, dim in ((Half.K, slot.key_dim), (Half.V, slot.value_dim))
        }

    def _reserve(self, tokens: int) -> None:
        for half, held in self._halves.items():
            if tokens > held.shape[2]:
                grown = held.new_empty(1, held.shape[1], _capacity(tokens), held.shape[3])
                grown[:, :, : self.length] = held[:, :, : self.length]
                self._halves[half] = grown

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes K and V of further tokens, `[1, kv_heads, tokens, dim]`; views of all there are now.

        Mismatch if the model makes other KV than its configuration says.
        """
        start, end = self.length, self.length + keys.shape[2]
        self._reserve(end)
        for half, more in ((Half.K, keys), (Half.V, values)):
            held = self._halves[half]
            if more.shape[:2] != held.shape[:2] or more.shape[3] != held.shape[3] or more.dtype != held.dtype:
                raise Mismatch(
                    f"{half.name} is {tuple(more.shape)} {more.dtype}, but the slot is {self._slot} {held.dtype}"
                )
            held[:, :, start:end] = more
        self.length = end
        return self._halves[Half.K][:, :, :end], self._halves[Half.V][:, :, :end]

    def extend(self, tokens: int) -> None:
        """Makes the next `tokens` tokens valid; `rows` then gives the memory to fill."""
        self._reserve(self.length + tokens)
        self.length += tokens

    def crop(self, length: int) -> None:
        """Forgets everything behind the first `length` tokens."""
        self.length = length

    def rows(self, half: Half, heads: slice, tokens: slice) -> Tensor:
        """A view of one half: `[heads, tokens, dim]`."""
        return self._halves[half][0, heads, tokens]
