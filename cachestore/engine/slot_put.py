"""An open put of a prompt's blocks that follows their computation slot by slot, for readers that wait for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from cachestore.codecs.base import Encoded
from cachestore.deadline import Deadline
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.page_moves import Mark
from cachestore.engine.page_writing import write_pages
from cachestore.hashing import Chain
from cachestore.store.base import BlockPlan, Put, PutStatus, Store


@dataclass(eq=False)
class SlotPut:
    """All blocks of `chain`; `run` is for a thread of its own, the rest for the engine's.

    `begun` is called, in that thread, once the blocks are reserved. What the store has already it does not want.

    `held` are the pages that it has references to: give them back once `run` has ended.
    """

    store: Store
    chain: Chain
    memory: PageMemory
    deadline: Deadline
    begun: Callable[[], None]
    held: list[int] = field(default_factory=list)
    _todo: SimpleQueue[Callable[[Put], object] | None] = field(default_factory=SimpleQueue)

    def write(self, slot: int, block: int, pages: Sequence[int], mark: Mark) -> None:
        """The KV of one slot of the blocks from `block` on lies in these pages after `mark`, and stays as it is."""
        numbered = dict(enumerate(pages, block))
        self._todo.put(lambda put: write_pages(put, self.memory, range(slot, slot + 1), numbered, mark))

    def whole(self, pages: Mapping[int, int]) -> None:
        """These blocks lie in their pages with all their slots, and stay as they are."""
        slots, mark = range(len(self.memory.spec.slots)), self.memory.moves.mark()
        self._todo.put(lambda put: write_pages(put, self.memory, slots, pages, mark))

    def coded(self, block: int, planes: Sequence[Encoded]) -> None:
        """All planes of a block, as they are stored."""
        self._todo.put(lambda put: put.write_encoded(block, 0, *planes))

    def commit(self, block: int, end: int) -> None:
        """Publishes the blocks `block` up to, not including, `end`: all their slots were written."""

        def commit(put: Put) -> None:
            wanted = [at for at in range(block, end) if put.answers[at].status is PutStatus.WANTED]
            if wanted:
                put.commit(wanted)

        self._todo.put(commit)

    def end(self) -> None:
        """Nothing follows; blocks that are not committed are given up."""
        self._todo.put(None)

    def run(self) -> list[PutStatus]:
        """Does what is told, until the end or an error of the store; what became of each block."""
        spec = self.memory.spec
        planes = spec.planes()
        plans = [BlockPlan(key, spec.block_tokens, planes) for key in self.chain.keys]
        self.deadline.check("waiting for a thread to put blocks")
        timeout = max(self.deadline.remaining(), 1e-3)
        with self.store.put(self.chain.fingerprint, plans, timeout=timeout) as put:
            self.begun()
            for todo in iter(self._todo.get, None):
                todo(put)
            return [answer.status for answer in put.answers]
