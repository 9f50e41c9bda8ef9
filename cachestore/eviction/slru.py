"""Segmented least recently used: Karedla, Love and Wherry, Caching strategies to improve disk system performance,
IEEE Computer 27(3), 1994."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.eviction.queues import Queue, Queued


@dataclass(frozen=True)
class Slru:
    """Blocks are on probation until they are read; those read since are protected, up to a share of all.

    protected: the share of all blocks that may be protected
    """

    protected: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.protected <= 1:
            raise ConfigError(f"eviction.protected = {self.protected} must be between 0 and 1; 0.8 is usual")

    def start(self) -> "SlruOrder":
        return SlruOrder(self.protected)


class SlruOrder(Queued):
    """Two queues by last use; what falls out of the protected one has another chance on probation."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._probation = Queue()
        self._protected = Queue()

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        if name in self._of:
            self.touch([name])
        else:
            self._grow(name, parent, self._probation)

    def touch(self, names: Sequence[Hashable]) -> None:
        for run in reversed(self._read(names)):
            self._move(run, self._protected)
        while self._protected.blocks > self._share * len(self._of):
            self._move(next(iter(self._protected.runs)), self._probation)

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        run = self._leaf(self._probation, stays) or self._leaf(self._protected, stays)
        return None if run is None else self._take(run)
