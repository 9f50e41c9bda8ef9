"""Planes as they are."""

from dataclasses import dataclass

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import RAW
from cachestore.seal import CorruptBlock


@dataclass(frozen=True)
class Raw:
    """The identity: one copy, at the speed of memory."""

    @property
    def id(self) -> int:
        return RAW

    @property
    def lossy(self) -> bool:
        return False

    def encode(self, raw: Buffer, plane: PlaneId) -> Buffer | None:
        return None

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        if stored.nbytes != out.nbytes:
            raise CorruptBlock("codec")
        np.copyto(out, stored)
