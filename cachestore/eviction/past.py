"""What the `prefix` policy knows of blocks: how often and when they were used, here or evicted meanwhile."""

from typing import Self

from cachestore.eviction.runs import Run
from cachestore.eviction.waiting import Moment


class Past:
    """When blocks were used last, what kind they were then, and where they are counted until they are used again."""

    __slots__ = ("kind", "moment", "since", "uses")

    def __init__(self, kind: int, uses: int, since: int, moment: Moment) -> None:
        self.kind = kind
        self.uses = uses
        self.since = since
        self.moment = moment


class PrefixRun(Run):
    """A run, with what is known of it. `past` is unknown while its prompt may still be growing."""

    __slots__ = ("depth", "nbytes", "past", "since", "uses", "whole")

    def __init__(self) -> None:
        super().__init__()
        self.uses = 1
        self.since = 0
        self.depth = 0
        """Blocks before its first."""
        self.nbytes = 0.0
        """Mean size of its blocks."""
        self.whole = True
        """Whether its last block is the last of a prompt, never read."""
        self.past: Past | None = None

    def front(self) -> Self:
        front = super().front()
        front.uses, front.since, front.depth, front.nbytes = self.uses, self.since, self.depth, self.nbytes
        front.whole, front.past = False, self.past
        return front
