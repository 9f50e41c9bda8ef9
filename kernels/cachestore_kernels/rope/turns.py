"""How far each pair of channels of each token turns."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Turns:
    """Cosines and sines in float32, of angles in float64: far positions turn often, and float32 would lose where."""

    cosines: torch.Tensor  # [blocks, tokens, pairs]
    sines: torch.Tensor  # [blocks, tokens, pairs]
    still: torch.Tensor  # int8 [blocks, tokens], 1 where a token does not move
    interleaved: bool

    @classmethod
    def of(cls, shifts: torch.Tensor, frequencies: torch.Tensor, interleaved: bool) -> "Turns":
        """Those of `shifts` `[blocks, tokens]` and `frequencies` `[pairs]`."""
        angles = shifts[..., None].double() * frequencies.double()
        return cls(angles.cos().float(), angles.sin().float(), (shifts == 0).to(torch.int8), interleaved)

    @property
    def pairs(self) -> int:
        """Pairs of channels that turn."""
        return self.cosines.shape[2]
