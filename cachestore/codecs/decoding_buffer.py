"""Memory for a block whose owner can take it elsewhere, as into a page on a device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Encoded

if TYPE_CHECKING:
    # a store without a device starts in a quarter of the time
    import torch


class Elsewhere(Protocol):
    """Where the owner of a buffer would rather have its block."""

    def decode(self, planes: Sequence[PlaneId], coded: Sequence[Encoded]) -> bool | None:
        """Takes planes as they are stored; whether they hold there, by their raw checksums. None: they are not taken.

        Their bytes may be any, and may change meanwhile.
        """

    def page(self, device: "torch.device") -> "torch.Tensor | None":
        """That memory itself, uint8 and as long as the buffer, for whoever fills it with raw planes; None if elsewhere.

        Nobody else uses it, on the device neither.
        """


class DecodingBuffer(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A `Buffer` for a read's `into`. Whoever does not know what it is fills it as any other."""

    _elsewhere: Elsewhere | None = None
    taken = False
    """Whether the block that was handed out last is where its owner has it. Else it lies here."""

    @classmethod
    def of(cls, memory: Buffer, elsewhere: Elsewhere) -> "DecodingBuffer":
        """This memory, or that place."""
        made: DecodingBuffer = memory.view(cls)
        made._elsewhere = elsewhere
        return made

    def begin(self) -> None:
        """A block is about to be laid here, or there."""
        self.taken = False

    def decode(self, planes: Sequence[PlaneId], coded: Sequence[Encoded]) -> bool | None:
        """As its owner does; None for a part of it."""
        held = self._elsewhere.decode(planes, coded) if self._elsewhere is not None else None
        self.taken = held is True
        return held

    def page(self, device: "torch.device") -> "torch.Tensor | None":
        """As its owner says; whoever gets it fills it, or another attempt begins."""
        page = self._elsewhere.page(device) if self._elsewhere is not None else None
        self.taken = page is not None
        return page
