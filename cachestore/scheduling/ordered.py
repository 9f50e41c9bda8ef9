"""What policies share that start sequences in a fixed order, as long as the memory they will need fits."""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import TypeAlias

from cachestore.errors import InvalidArgument
from cachestore.scheduling.base import Demand, Plan
from cachestore.scheduling.memory import by_end, peak

_Entry: TypeAlias = tuple[tuple[float, float], int, Demand]
"""Rank, number and demand, as the heap orders them."""


class Ordered:
    """A queue in the order of `rank`, least first; equals in the order in which they were added.

    It starts the longest run of sequences from the front with which, by the predictions, memory never exceeds the
    budget in any coming step; it stops at the first that does not fit, so that none is overtaken by those behind it.
    When the next step does not fit, because predictions were too short, the last in the same order is preempted.
    """

    def __init__(self, rank: Callable[[Demand], tuple[float, float]], page_tokens: int) -> None:
        if page_tokens < 1:
            raise InvalidArgument(f"page_tokens = {page_tokens} must be at least 1")
        self._rank = rank
        self._page_tokens = page_tokens
        self._heap: list[_Entry] = []
        self._added = count()
        self._waiting: dict[Hashable, int] = {}
        """By name: which of its entries in the heap holds; those of removed ones stay there until they come up."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, demand: Demand) -> None:
        if demand.name in self._waiting:
            raise InvalidArgument(f"name = {demand.name!r} waits already; remove it first")
        _check(demand)
        number = self._waiting[demand.name] = next(self._added)
        heapq.heappush(self._heap, (self._rank(demand), number, demand))

    def remove(self, name: Hashable) -> None:
        self._waiting.pop(name, None)
        if len(self._heap) > 2 * len(self) + 16:
            self._heap = [entry for entry in self._heap if self._waits(entry)]
            heapq.heapify(self._heap)

    def plan(self, running: Sequence[Demand], budget: int, most: int | None = None) -> Plan:
        for demand in running:
            _check(demand)
        stay = [demand for demand in running if self._room(demand, budget) > 0]
        refuse = [demand.name for demand in running if self._room(demand, budget) <= 0]
        preempt = self._preempt(stay, budget)
        # whoever is preempted still counts here, so that the plan that makes room starts nobody
        start = self._start(stay, budget, most, refuse)
        return Plan(start, preempt, refuse)

    def _preempt(self, running: list[Demand], budget: int) -> list[Hashable]:
        """The last in order, until the others have room for one more token each; the first always stays."""
        needed = [-((demand.held + 1) // -self._page_tokens) for demand in running]
        over, gone = sum(needed) - budget, list[Hashable]()
        for at in sorted(range(len(running)), key=lambda at: (self._rank(running[at]), at), reverse=True):
            if over <= 0:
                break
            over -= needed[at]
            gone.append(running[at].name)
        return gone

    def _start(self, running: list[Demand], budget: int, most: int | None, refuse: list[Hashable]) -> list[Hashable]:
        """Takes out the longest run from the front that fits: tries twice as many each time, then halves.

        So few of those that wait are looked at, however many there are.
        """
        room = len(self) if most is None else min(len(self), most - len(running))
        if room <= 0:
            return []
        fixed = by_end(self._bounded(demand, budget) for demand in running)
        front: list[_Entry] = []

        def over(size: int) -> bool:
            ahead = [*fixed, *(self._bounded(demand, budget) for *_, demand in front[:size])]
            return peak(by_end(ahead), self._page_tokens) > budget

        fits = -1
        while not over(len(front)):
            fits = len(front)
            more = self._pop(min(max(1, fits), room - fits), budget, refuse)
            if not more:
                break
            front += more
        else:
            fits = max(0, bisect_left(range(len(front)), True, lo=fits + 1, key=over) - 1)
        for entry in front[fits:]:
            heapq.heappush(self._heap, entry)
        start = [demand.name for *_, demand in front[:fits]]
        for name in start:
            del self._waiting[name]
        return start

    def _pop(self, many: int, budget: int, refuse: list[Hashable]) -> list[_Entry]:
        """So many from the front, or all; those that could never run are refused instead."""
        popped: list[_Entry] = []
        while self._heap and len(popped) < many:
            entry = heapq.heappop(self._heap)
            if not self._waits(entry):
                continue
            if self._room(entry[2], budget) > 0:
                popped.append(entry)
            else:
                del self._waiting[entry[2].name]
                refuse.append(entry[2].name)
        return popped

    def _waits(self, entry: _Entry) -> bool:
        return self._waiting.get(entry[2].name) == entry[1]

    def _room(self, demand: Demand, budget: int) -> int:
        """How many tokens it could still take if it ran alone."""
        return budget * self._page_tokens - demand.held

    def _bounded(self, demand: Demand, budget: int) -> Demand:
        """The same, predicted to end when it fills the budget at the latest, so that it can start at least alone."""
        room = self._room(demand, budget)
        return demand if demand.remaining <= room else demand._replace(remaining=room)


def _check(demand: Demand) -> None:
    if demand.held < 0 or demand.remaining < 1:
        raise InvalidArgument(f"{demand}: `held` must be at least 0 and `remaining` at least 1")
