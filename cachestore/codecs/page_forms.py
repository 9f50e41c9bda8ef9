"""What codes planes in pages on their device: the contract, and the words it is written in."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachestore.block import BlockSpec, Buffer, PlaneId
from cachestore.codecs.base import Encoded
from cachestore.seal import checksum
from cachestore_kernels.checksum import checksum_pages
from cachestore_kernels.checksum.xxh3 import SHORTEST
from cachestore_kernels.method import Method
from cachestore_kernels.paged import gather


class Where(NamedTuple):
    """Planes in pages, as kernels take them: alike in shape and strides, K and V in pairs, a page being a block."""

    keys: list[Tensor]
    """Views `[pages, heads of the group, block_tokens, dim]`."""
    values: list[Tensor]
    pages: Tensor
    """int64 `[blocks]`."""
    method: Method | None

    def at(self, blocks: Sequence[int]) -> "Where":
        """The same planes of some of the blocks."""
        return self._replace(pages=self.pages[list(blocks)])


class Form(Protocol):
    """How kernels code the planes of one codec. `planes` are K and V in turns, as the pools of `where` are."""

    def encode(
        self, codec: Any, spec: BlockSpec, planes: Sequence[PlaneId], where: Where
    ) -> list[list[Encoded] | None]:
        """The planes of each block; None for one that is the host's."""

    def decode(
        self, codec: Any, spec: BlockSpec, planes: Sequence[PlaneId], where: Where, blocks: Sequence[Sequence[Encoded]]
    ) -> list[bool | None]:
        """Fills pages; whether the planes of each block have their raw checksums; None for one that is the host's."""


def checksums(where: Where) -> NDArray[np.uint64]:
    """xxh3-64 of the planes as they lie in their pages, `[blocks, planes]`: on the device if the kernel takes them."""
    first = where.keys[0]
    steps = [first.shape[3], *first.stride()[:3]]
    places = [pool.data_ptr() for pool in (*where.keys, *where.values)]
    words = all(n * first.itemsize % 8 == 0 for n in steps) and all(place % 8 == 0 for place in places)
    if words and first[0].numel() * first.itemsize >= SHORTEST:
        sums = checksum_pages(where.keys, where.values, where.pages, method=where.method).flatten(1)
        found: NDArray[np.uint64] = sums.cpu().numpy()
        return found
    blocks = gather(where.keys, where.values, where.pages, method=where.method).flatten(3).flatten(1, 2)
    host = blocks.cpu().view(torch.uint8).numpy()
    return np.array([[checksum(plane) for plane in block] for block in host], dtype=np.uint64)


def to_device(rows: Sequence[Sequence[Buffer]], device: torch.device) -> Tensor:
    """Equally long rows of bytes as uint8 `[blocks, rows, bytes]` on the device, from a private copy."""
    return torch.from_numpy(np.array(rows, dtype=np.uint8)).to(device)
