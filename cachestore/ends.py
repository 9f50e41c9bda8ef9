"""When what ends, soonest first. What is over before its end is forgotten by and by."""

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

What = TypeVar("What", bound=Hashable)

SLACK = 64
"""Ends that are kept at least before they are looked through."""


@dataclass(eq=False)
class Ends(Generic[What]):
    """Ends in seconds of any one clock. `holds` says whether something still ends then. Callers lock it."""

    holds: Callable[[float, What], bool]
    _ending: list[tuple[float, What]] = field(default_factory=list)
    _most: int = SLACK

    def __len__(self) -> int:
        """How many are kept: at most twice as many as hold, and `SLACK`."""
        return len(self._ending)

    def add(self, at: float, what: What) -> None:
        """This ends then."""
        heapq.heappush(self._ending, (at, what))
        if len(self._ending) > self._most:
            # once each: an end that is said again and again is the same end
            self._ending = list(dict.fromkeys(end for end in self._ending if self.holds(*end)))
            heapq.heapify(self._ending)
            self._most = 2 * len(self._ending) + SLACK

    def due(self, now: float) -> What | None:
        """Takes out what ends by `now`, one at a time; None if there is nothing."""
        while self._ending and self._ending[0][0] <= now:
            at, what = heapq.heappop(self._ending)
            if self.holds(at, what):
                return what
        return None
