"""Windowed TinyLFU: Einziger, Friedman and Manes, TinyLFU: a highly efficient cache admission policy,
ACM Transactions on Storage 13(4), 2017 (arXiv 1512.00727)."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.eviction.queues import Queue, Queued
from cachestore.eviction.sketch import Sketch


@dataclass(frozen=True)
class Lfu:
    """New blocks pass a small window; out of it they must have been used more often than who would leave for them.

    window: the share of all blocks that the window keeps
    protected: the share of the others that may be protected, as in `slru`
    """

    window: float = 0.01
    protected: float = 0.8

    def __post_init__(self) -> None:
        for name in ("window", "protected"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"eviction.{name} = {getattr(self, name)} must be between 0 and 1")

    def start(self) -> "LfuOrder":
        return LfuOrder(self)


class LfuOrder(Queued):
    """Three queues by last use, and a sketch of how often blocks were used, whether they are here or not."""

    def __init__(self, settings: Lfu) -> None:
        super().__init__()
        self._settings = settings
        self._window = Queue()
        self._probation = Queue()
        self._protected = Queue()
        self._uses = Sketch()
        # how many blocks there were when one had last to leave: with fewer there is room, and no contest
        self._full = float("inf")

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        if name in self._of:
            self.touch([name])
            return
        self._uses.add(name, len(self._of))
        run = self._grow(name, parent, self._window)
        while len(self._of) < self._full and self._overflows():
            oldest = next(iter(self._window.runs))
            if oldest is run:
                break
            self._move(oldest, self._probation)

    def touch(self, names: Sequence[Hashable]) -> None:
        for run in reversed(self._read(names)):
            for name in run.blocks:
                self._uses.add(name, len(self._of))
            self._move(run, self._window if run.queue is self._window else self._protected)
        main = self._probation.blocks + self._protected.blocks
        while self._protected.blocks > self._settings.protected * main:
            self._move(next(iter(self._protected.runs)), self._probation)

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        self._full = len(self._of)
        new = self._leaf(self._window, stays) if self._overflows(coming=1) else None
        old = self._leaf(self._probation, stays) or self._leaf(self._protected, stays)
        if new is not None and old is not None and self._uses[new.blocks[-1]] > self._uses[old.blocks[-1]]:
            self._move(new, self._probation)
            new = None
        leaves = new or old or self._leaf(self._window, stays)
        return None if leaves is None else self._take(leaves)

    def _overflows(self, coming: int = 0) -> bool:
        return self._window.blocks + coming > self._settings.window * len(self._of)
