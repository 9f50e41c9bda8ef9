"""S3-FIFO: Yang, Zhang, Qiu, Yue and Vinayak, FIFO queues are all you need for cache eviction, SOSP '23."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.eviction.queues import Queue, Queued, QueuedRun

_MOST_READS = 3


@dataclass(frozen=True)
class S3Fifo:
    """A small queue that most blocks leave by, a main one for those read there, and the names of those that left.

    small: the share of all blocks that the small queue keeps
    """

    small: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.small <= 1:
            raise ConfigError(f"eviction.small = {self.small} must be between 0 and 1; 0.1 is usual")

    def start(self) -> "S3FifoOrder":
        return S3FifoOrder(self.small)


class S3FifoOrder(Queued):
    """A read counts, up to 3, and moves nothing; a run that was read goes round once more for each."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._small = Queue()
        self._main = Queue()
        self._left: OrderedDict[Hashable, None] = OrderedDict()

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        if name in self._of:
            self.touch([name])
            return
        known = name in self._left
        self._left.pop(name, None)
        self._grow(name, parent, self._main if known else self._small)

    def touch(self, names: Sequence[Hashable]) -> None:
        for run in self._read(names):
            run.reads = min(run.reads + 1, _MOST_READS)

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        stuck = False
        # every run is met until its reads are used up, and once more
        for _ in range((_MOST_READS + 2) * (len(self._small.runs) + len(self._main.runs))):
            enough = stuck or not self._main.runs or self._small.blocks >= self._share * len(self._of)
            small = enough and bool(self._small.runs)
            run = next(iter((self._small if small else self._main).runs))
            name = run.blocks[-1]
            if small and run.reads > 1:
                run.reads = 0
                self._move(run, self._main)
            elif name in self._inner or stays(name):
                # in use: as good as read, and the small queue may have something that is not
                stuck = True
                self._move(run, self._main)
            elif run.reads and not small:
                run.reads -= 1
                self._move(run, self._main)
            else:
                return self._gone(run, small)
        return None

    def _gone(self, run: QueuedRun, small: bool) -> Hashable:
        name = self._take(run)
        if small:
            self._left[name] = None
            while len(self._left) > len(self._of):
                self._left.popitem(last=False)
        return name
