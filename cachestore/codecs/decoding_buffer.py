"""Memory for a block whose owner can decode planes itself, as where pages lie on a device."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Encoded

Decode: TypeAlias = Callable[[Sequence[PlaneId], Sequence[Encoded]], bool | None]
"""Takes the planes of a block as they are stored, and says whether they hold, by their raw checksums; None: not taken.

Their bytes may be any, and may change meanwhile.
"""


class DecodingBuffer(np.ndarray[tuple[int], np.dtype[np.uint8]]):
    """A `Buffer` for a read's `into`. Whoever does not know what it is fills it as any other."""

    _decode: Decode | None = None
    decoded = False
    """Whether the block that was handed out last was decoded by the owner. Else it lies here."""

    @classmethod
    def of(cls, memory: Buffer, decode: Decode) -> "DecodingBuffer":
        """This memory, with its owner's `decode`."""
        made: DecodingBuffer = memory.view(cls)
        made._decode = decode
        return made

    def begin(self) -> None:
        """A block is about to be laid here, or to be decoded."""
        self.decoded = False

    def decode(self, planes: Sequence[PlaneId], coded: Sequence[Encoded]) -> bool | None:
        """As its owner does; None for a part of it."""
        held = self._decode(planes, coded) if self._decode is not None else None
        self.decoded = held is True
        return held
