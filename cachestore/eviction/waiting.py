"""How many blocks of each kind have not been read since which time? Here, or evicted and still remembered."""

import numpy as np
from numpy.typing import NDArray

from cachestore.eviction.reuse import EDGES, bucket


class Waiting:
    """Counts by kind for each of some times; whoever counts a block at a time takes it off again when its wait ends.

    Times that are near each other, by the blocks there are, count as one.
    """

    def __init__(self, kinds: int) -> None:
        self._kinds = kinds
        # with the clock when it began, the oldest first
        self._times: list[tuple[int, list[int]]] = []
        self._now: list[int] = []
        self._now_until = 0
        self._pruned_at = 64

    def now(self, clock: int, size: int) -> list[int]:
        """The counts, by kind, of blocks used now; `size` is how many blocks there are."""
        if clock >= self._now_until:
            self._now = [0] * self._kinds
            if len(self._times) >= self._pruned_at:
                self._prune()
            self._times.append((clock, self._now))
            self._now_until = clock + max(4, size // 16)
        return self._now

    def by_age(self, clock: int, size: int) -> tuple[NDArray[np.float64], float]:
        """The counts by kind and age, and how old the oldest of the last `size` blocks used is. A new time begins."""
        self._prune()
        self._now_until = 0
        counted = np.zeros((self._kinds, len(EDGES)))
        younger, later, age = 0, clock, float(clock)
        for at, counts in reversed(self._times):
            counted[:, bucket(clock - at)] += counts
            here = sum(counts)
            if younger < size <= younger + here:
                age = clock - later + (later - at) * (size - younger) / here
            younger, later = younger + here, at
        return counted, age

    def _prune(self) -> None:
        """Drops the times of which no block is left, so that there are never many more than blocks are known."""
        self._times = [(at, counts) for at, counts in self._times if any(counts)]
        self._pruned_at = 2 * len(self._times) + 64
