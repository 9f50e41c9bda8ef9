"""Blocks handed on to a taker, piece by piece."""

from typing import NamedTuple

import numpy as np

from cachestore.block import Buffer
from cachestore.errors import InvalidArgument
from cachestore.store.base import Taker
from cachestore.store.checks import is_fillable


class Handed(NamedTuple):
    """Block number `block` of a read goes to `taker`."""

    taker: Taker
    block: int


class Handing:
    """The way to `taker` of `blocks` blocks that arrive in one piece: each in the same memory, from which it is handed
    on before the next one comes. InvalidArgument if a piece could not be laid into its room."""

    def __init__(self, taker: Taker, blocks: int) -> None:
        if not all(map(is_fillable, taker.rooms)):
            raise InvalidArgument("fill: rooms must be one-dimensional, contiguous, writeable arrays of uint8")
        self._taker = taker
        self._whole: Buffer = np.empty(sum(room.nbytes for room in taker.rooms), dtype=np.uint8)
        self.into = [self._whole] * blocks
        """What the blocks are to be read into."""
        self.targets = [Handed(taker, block) for block in range(blocks)]
        """The same blocks where they come piece by piece."""

    def hand(self, block: int) -> None:
        """This block is there, and holds."""
        at = 0
        for piece, room in enumerate(self._taker.rooms):
            np.copyto(room, self._whole[at : at + room.nbytes])
            self._taker.take(block, piece)
            at += room.nbytes
