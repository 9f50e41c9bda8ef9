"""What policies share that keep the runs of blocks in a few queues and move them from one to the next."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Self

from cachestore.eviction.runs import Run, Runs


class Queue:
    """Runs, the one to leave first in front, and how many blocks they are."""

    def __init__(self) -> None:
        self.runs: OrderedDict[QueuedRun, None] = OrderedDict()
        self.blocks = 0


class QueuedRun(Run):
    """A run in a queue. `reads` counts as far as the policy wants to know."""

    __slots__ = ("queue", "reads")

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue | None = None
        self.reads = 0

    def front(self) -> Self:
        front = super().front()
        front.reads = self.reads
        return front


class Queued(Runs[QueuedRun]):
    """An order of queues. A policy says into which a new run goes, what a read does, and which leaf is to leave."""

    def __init__(self) -> None:
        super().__init__(QueuedRun)

    def remove(self, name: Hashable) -> None:
        run = self._of.get(name)
        if run is None:
            return
        if run.queue is not None:
            run.queue.blocks -= 1
        empty = self._cut(name)
        if empty is not None and empty.queue is not None:
            del empty.queue.runs[empty]

    def _grow(self, name: Hashable, parent: Hashable | None, into: Queue) -> QueuedRun:
        """Adds a block; a run that is new goes to the end of `into`, with those above it that are there behind it."""
        run = self._add(name, parent)
        if run.queue is None:
            self._move(run, into)
            for up in self._path(self._of.get(run.parent)):
                if up.queue is into:
                    into.runs.move_to_end(up)
        else:
            run.queue.blocks += 1
        return run

    def _move(self, run: QueuedRun, queue: Queue) -> None:
        """Puts a run at the end of a queue."""
        if run.queue is not None:
            del run.queue.runs[run]
            run.queue.blocks -= len(run.blocks)
        run.queue = queue
        queue.runs[run] = None
        queue.blocks += len(run.blocks)

    def _leaf(self, queue: Queue, stays: Callable[[Hashable], bool]) -> QueuedRun | None:
        """The first run of a queue whose last block may leave; those before it go to its end, as they are in use."""
        skipped, found = [], None
        for run in queue.runs:
            if run.blocks[-1] not in self._inner and not stays(run.blocks[-1]):
                found = run
                break
            skipped.append(run)
        for run in skipped:
            queue.runs.move_to_end(run)
        return found

    def _take(self, run: QueuedRun) -> Hashable:
        """Evicts the last block of a run."""
        name = self._pop(run)
        if run.queue is not None:
            run.queue.blocks -= 1
            if not run.blocks:
                self._unhang(run)
                del run.queue.runs[run]
        return name

    def _split(self, run: QueuedRun, at: int) -> QueuedRun:
        front = super()._split(run, at)
        if run.queue is not None:
            run.queue.blocks -= at
            self._move(front, run.queue)
        return front
