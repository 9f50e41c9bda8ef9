"""Readers that take blocks piece by piece, and keep what they were handed."""

from collections.abc import Sequence

import numpy as np

from cachestore.block import Buffer


class Keeper:
    """Follows `cachestore.store.base.Taker`: pieces of these sizes, all in the same memory."""

    def __init__(self, sizes: Sequence[int]) -> None:
        memory = np.zeros(max(sizes), dtype=np.uint8)
        self.rooms: list[Buffer] = [memory[:size] for size in sizes]
        self.taken: list[list[Buffer]] = []
        """By block, the pieces in order."""

    def take(self, block: int, piece: int) -> None:
        if not piece:
            # a block may begin anew
            del self.taken[block:]
            assert block == len(self.taken)
            self.taken.append([])
        assert piece == len(self.taken[block]) and block == len(self.taken) - 1
        self.taken[block].append(self.rooms[piece].copy())
        # whoever left them to the taker alone would have lost them
        self.rooms[piece][:] = 0


class Breaking(Keeper):
    """The same up to block `at`, of which it takes nothing."""

    def __init__(self, sizes: Sequence[int], at: int) -> None:
        super().__init__(sizes)
        self._at = at

    def take(self, block: int, piece: int) -> None:
        if block == self._at:
            raise OSError("broken")
        super().take(block, piece)
