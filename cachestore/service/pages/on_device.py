"""Planes that a reader has on a device."""

from collections.abc import Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from cachestore.block import Block, Buffer, Views


class OnDevice(Views):
    """Planes that lie one behind the other in `tensor`, uint8; one is copied to the host whenever it is asked for."""

    def __init__(self, tensor: Tensor, places: Sequence[slice]) -> None:
        # nothing of it is on the host
        super().__init__(np.empty(0, dtype=np.uint8), places)
        self.tensor = tensor

    @overload
    def __getitem__(self, index: int) -> Buffer: ...
    @overload
    def __getitem__(self, index: slice) -> "OnDevice": ...
    def __getitem__(self, index: int | slice) -> "Buffer | OnDevice":
        if isinstance(index, slice):
            return OnDevice(self.tensor, self.places[index])
        planes: Buffer = self.tensor[self.places[index]].cpu().numpy()
        return planes


def on_device(block: Block, device: torch.device) -> Tensor:
    """The planes of a block that was read, one behind the other, as uint8 on `device`; not copied if they are there."""
    if isinstance(block.data, OnDevice):
        return block.data.tensor.to(device)
    data = list(block.data)
    return torch.from_numpy(np.concatenate(data) if data else np.empty(0, dtype=np.uint8)).to(device)
