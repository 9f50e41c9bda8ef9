"""Between planes, bytes in host memory, and the KV of a sequence, tensors on its device."""

import torch
from torch import Tensor

from cachestore.block import Buffer


def scatter(data: Buffer, rows: Tensor) -> None:
    """Copies a plane's bytes into `rows`, `[heads of the group, tokens, dim]`, once."""
    source = data if data.flags.writeable else data.copy()
    rows.copy_(torch.from_numpy(source).view(rows.dtype).view(rows.shape))


def gather(rows: Tensor) -> Buffer:
    """The bytes of `rows`, `[heads of the group, tokens, dim]`, in memory of their own."""
    plane = torch.empty(rows.shape, dtype=rows.dtype).copy_(rows)
    data: Buffer = plane.view(-1).view(torch.uint8).numpy()
    return data
