"""Least recently used."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cachestore.eviction.runs import Run, Runs


@dataclass(frozen=True)
class Lru:
    """Evicts the leaf that was not read for longest. No settings."""

    def start(self) -> "LruOrder":
        return LruOrder()


class LruOrder(Runs[Run]):
    """Runs by last use, oldest first; a run is always older than those above it, so the oldest one ends in a leaf."""

    def __init__(self) -> None:
        super().__init__(Run)
        self._runs: OrderedDict[Run, None] = OrderedDict()
        self._newest: Run | None = None

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        if name in self._of:
            self.touch([name])
            return
        run = self._add(name, parent)
        if run is not self._newest:
            self._use(run)

    def touch(self, names: Sequence[Hashable]) -> None:
        found = self._read(names)
        if found:
            self._use(found[-1])

    def remove(self, name: Hashable) -> None:
        if (empty := self._cut(name)) is not None:
            del self._runs[empty]

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        inner, skipped, gone = self._inner, [], None
        for run in self._runs:
            name = run.blocks[-1]
            if name not in inner and not stays(name):
                gone = self._pop(run)
                if not run.blocks:
                    self._unhang(run)
                    del self._runs[run]
                break
            skipped.append(run)
        # what stays is in use: as good as just read, and out of the way of the next call
        for run in skipped:
            self._runs.move_to_end(run)
        return gone

    def _use(self, run: Run) -> None:
        for up in self._path(run):
            self._runs[up] = None
            self._runs.move_to_end(up)
        self._newest = run

    def _split(self, run: Run, at: int) -> Run:
        front = super()._split(run, at)
        self._use(front)
        return front
