"""Memory for what is read, used again once nobody holds it: to touch fresh pages takes as long as to read into them."""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cachestore.block import Buffer

GRAIN = 64 << 10
"""Sizes are rounded up to this, so that blocks of nearly one size share memory; smaller ones are not kept."""


@dataclass(eq=False)
class Memory:
    """Keeps `capacity` bytes at most while nobody holds them."""

    capacity: int
    _spare: list[Buffer] = field(default_factory=list)
    _kept: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, nbytes: int) -> Buffer:
        """Memory of `nbytes`, with whatever was in it. It comes back when the last view of it is gone."""
        if nbytes < GRAIN:
            return np.empty(nbytes, dtype=np.uint8)
        size = -(-nbytes // GRAIN) * GRAIN
        taken = None
        with self._lock:
            # the last one given back is the one that caches still hold
            for index in range(len(self._spare) - 1, -1, -1):
                if self._spare[index].nbytes == size:
                    taken = self._spare.pop(index)
                    self._kept -= size
                    break
        return np.asarray(_Lent(self, np.empty(size, dtype=np.uint8) if taken is None else taken, nbytes))

    def give(self, memory: Buffer) -> None:
        """Takes memory back; called by whichever thread dropped the last view, perhaps one that is inside `take`."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if memory.nbytes > self.capacity:
                return
            self._spare.append(memory)
            self._kept += memory.nbytes
            while self._kept > self.capacity:
                self._kept -= self._spare.pop(0).nbytes
        finally:
            self._lock.release()


class _Lent:
    """What an array and all its views hold on to (numpy's array interface)."""

    def __init__(self, owner: Memory, memory: Buffer, nbytes: int) -> None:
        self.owner = owner
        self.memory = memory
        self.__array_interface__: dict[str, Any] = memory[:nbytes].__array_interface__

    def __del__(self) -> None:
        self.owner.give(self.memory)
