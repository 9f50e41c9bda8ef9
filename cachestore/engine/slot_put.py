"""An open put of a prompt's blocks that follows their computation slot by slot, for readers that wait for them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from queue import SimpleQueue

from cachestore.deadline import Deadline
from cachestore.engine.page_memory import PageMemory
from cachestore.hashing import Chain
from cachestore.store.base import BlockPlan, Put, PutStatus, Store


@dataclass(eq=False)
class SlotPut:
    """Blocks `first` up to the end of `chain`; `run` is for a thread of its own, the rest for the engine's.

    `begun` is called, in that thread, once the blocks are reserved.

    `held` are the pages that it has references to: give them back once `run` has ended.
    """

    store: Store
    chain: Chain
    first: int
    memory: PageMemory
    deadline: Deadline
    begun: Callable[[], None]
    held: list[int] = field(default_factory=list)
    _todo: SimpleQueue[Callable[[Put], object] | None] = field(default_factory=SimpleQueue)
    _spans: list[tuple[int, int]] = field(default_factory=list)
    """By slot, its planes."""

    def __post_init__(self) -> None:
        ends = [0, *accumulate(Counter(plane.slot for plane in self.memory.spec.planes()).values())]
        self._spans = list(pairwise(ends))

    def write(self, slot: int, block: int, pages: Sequence[int]) -> None:
        """The KV of one slot of the blocks from `block` on lies in these pages, and stays as it is."""
        number, (start, end) = block - self.first, self._spans[slot]

        def write(put: Put) -> None:
            for at, page in enumerate(pages, number):
                if put.answers[at].status is PutStatus.WANTED:
                    put.write(at, start, self.memory.planes(page, start, end))

        self._todo.put(write)

    def commit(self, block: int, end: int) -> None:
        """Publishes the blocks `block` up to, not including, `end`: all their slots were written."""
        numbers = range(block - self.first, end - self.first)

        def commit(put: Put) -> None:
            put.commit([at for at in numbers if put.answers[at].status is PutStatus.WANTED])

        self._todo.put(commit)

    def end(self) -> None:
        """Nothing follows; blocks that are not committed are given up."""
        self._todo.put(None)

    def run(self) -> list[PutStatus]:
        """Does what is told, until the end or an error of the store; what became of each block."""
        spec = self.memory.spec
        keys, planes = self.chain.keys[self.first :], spec.planes()
        plans = [BlockPlan(key, spec.block_tokens, planes) for key in keys]
        after = self.chain.keys[self.first - 1] if self.first else None
        self.deadline.check("waiting for a thread to put blocks")
        timeout = max(self.deadline.remaining(), 1e-3)
        with self.store.put(self.chain.fingerprint, plans, after=after, timeout=timeout) as put:
            self.begun()
            for todo in iter(self._todo.get, None):
                todo(put)
            return [answer.status for answer in put.answers]
