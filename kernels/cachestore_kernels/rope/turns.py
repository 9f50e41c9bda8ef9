"""How far each pair of channels of each token turns."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Turns:
    """Cosines and sines in float32, of angles in float64: far positions turn often, and float32 would lose where."""

    cosines: torch.Tensor  # [blocks, tokens, pairs]
    sines: torch.Tensor  # [blocks, tokens, pairs]
    shifts: torch.Tensor  # int64 [blocks, tokens], contiguous: 0 where a token does not move
    interleaved: bool

    @classmethod
    def of(cls, shifts: torch.Tensor, frequencies: torch.Tensor, interleaved: bool) -> "Turns":
        """Those of `shifts` `[blocks, tokens]` and `frequencies` `[pairs]`."""
        angles = shifts[..., None] * frequencies.double()
        # rounded as they are written, for which a device needs no launch of its own
        cosines, sines = (torch.empty(angles.shape, device=angles.device) for _ in range(2))
        torch.cos(angles, out=cosines)
        torch.sin(angles, out=sines)
        return cls(cosines, sines, shifts.contiguous(), interleaved)

    @property
    def pairs(self) -> int:
        """Pairs of channels that turn."""
        return self.cosines.shape[2]
