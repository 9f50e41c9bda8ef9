"""Which blocks of each kind have not been read since when? Here, or evicted and still remembered.

In this order LRU would let them go: it holds those used last, as many as there are here, whoever decided what to evict
(Mattson, Gecsei, Slutz, Traiger, IBM Systems Journal 9(2), 1970: a stack of all blocks, of which any LRU is the top).
"""

from collections import deque
from itertools import chain
from math import inf

import numpy as np
from numpy.typing import NDArray

from cachestore.eviction.reuse import EDGES, bucket

_MOMENTS = 64
"""While as many blocks are used as there are, so many moments pass, or fewer, as hardly any prompt is in two."""


class Moment:
    """Blocks used at about one time and not since, counted by kind."""

    __slots__ = ("at", "counts", "gone")

    def __init__(self, at: int, kinds: int) -> None:
        self.at = at
        self.counts = [0] * kinds
        self.gone = 0.0
        """How many of them LRU would have let go: the deepest ones, or all of them (infinity)."""


class Waiting:
    """Moments, those of which LRU holds blocks apart from those older."""

    def __init__(self, kinds: int) -> None:
        self._kinds = kinds
        # the oldest first
        self._held: deque[Moment] = deque()
        self._older: list[Moment] = []
        self._blocks = 0
        """How many LRU would hold."""
        self._now = Moment(0, kinds)
        self._now_until = 0
        self._pruned_at = 64

    def begin(self, clock: int, size: int, kind: int, count: int) -> Moment:
        """Blocks were used at this time and wait since; `size` is how many blocks there are."""
        if clock >= self._now_until:
            if len(self._held) + len(self._older) >= self._pruned_at:
                self._prune()
            self._now = Moment(clock, self._kinds)
            self._held.append(self._now)
            self._now_until = clock + max(4, size // _MOMENTS)
        self.more(self._now, kind, count)
        return self._now

    def more(self, moment: Moment, kind: int, count: int) -> None:
        """More blocks wait since this moment."""
        moment.counts[kind] += count
        if moment.gone < inf:
            self._blocks += count

    def end(self, moment: Moment, kind: int, count: int) -> int:
        """So many wait no more; gives how many of them LRU would hold.

        Of a moment of which it holds a part, it is those that end first: prompts are read from the root on.
        """
        held, gone = count, moment.gone
        if gone == inf:
            held = 0
        elif gone:
            held = min(count, sum(moment.counts) - int(gone))
            moment.gone = gone - count + held
        moment.counts[kind] -= count
        self._blocks -= held
        return held

    def drop(self, size: int) -> None:
        """LRU lets go what is too much for room for `size` blocks."""
        while (over := self._blocks - size) > 0:
            oldest = self._held[0]
            here = sum(oldest.counts) - int(oldest.gone)
            if over < here:
                oldest.gone += over
                self._blocks = size
            else:
                oldest.gone = inf
                self._blocks -= here
                self._older.append(self._held.popleft())

    def by_age(self, clock: int) -> NDArray[np.float64]:
        """The counts by kind and age. A new moment begins."""
        self._prune()
        self._now_until = 0
        counted = np.zeros((self._kinds, len(EDGES)))
        for moment in chain(self._older, self._held):
            counted[:, bucket(clock - moment.at)] += moment.counts
        return counted

    def _prune(self) -> None:
        """Drops the moments since which no block waits, so that there are never many more than blocks are known."""
        self._held = deque(moment for moment in self._held if any(moment.counts))
        self._older = [moment for moment in self._older if any(moment.counts)]
        self._pruned_at = 2 * (len(self._held) + len(self._older)) + 64
