"""The contract of a scheduling policy: plain data in, plain data out; no clock, no input or output, no locks."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol


class Demand(NamedTuple):
    """What one sequence asks of memory, waiting or running.

    name: whatever tells it from the others
    arrived: when its request came, in any unit, always the same; a preempted sequence keeps it
    held: tokens of KV it holds, or will as soon as it starts: its prompt, and what it generated before it was
        preempted. Of a prompt that is still being computed all tokens count
    remaining: in how many steps it is predicted to end, at least 1. A step gives it one token; the steps in which the
        first chunks of its prompt are computed, and which give none, count too
    """

    name: Hashable
    arrived: float
    held: int
    remaining: int


class Plan(NamedTuple):
    """What changes before the next step; every name is in one list at most.

    start: those that waited and now run
    preempt: those that ran and stop, to make room. They wait again once the caller adds them, with what they hold then
    refuse: those, waiting or running, that could not take one more token even alone; nobody waits for them any more
    """

    start: list[Hashable]
    preempt: list[Hashable]
    refuse: list[Hashable]


class Queue(Protocol):
    """The sequences that wait. One thread at a time."""

    def add(self, demand: Demand) -> None:
        """A sequence waits from now on; InvalidArgument if one of this name does, or its figures cannot be meant."""

    def remove(self, name: Hashable) -> None:
        """A sequence no longer waits: it was aborted. Unknown names are ignored, it may just have started."""

    def plan(self, running: Sequence[Demand], budget: int, most: int | None = None) -> Plan:
        """Who starts, and who is preempted, before the next step.

        `running` are all that run now, with what they hold now; `budget` is how many pages they may hold together, and
        `most` how many may run at a time, None if that does not matter. What starts leaves the queue. After the plan
        the next step fits the budget, and at least one sequence runs if any could: so every step makes progress.
        InvalidArgument if figures of a running one cannot be meant.
        """

    def __len__(self) -> int:
        """How many wait."""


class Scheduling(Protocol):
    """The settings of a policy."""

    def start(self, page_tokens: int = 1) -> Queue:
        """An empty queue, for sequences that hold whole pages of so many tokens. With 1, budgets are in tokens."""
