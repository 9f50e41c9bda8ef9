"""vLLM: one load and one save of the connector on their way, and which threads do what of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock

from cachestore.deadline import Deadline
from cachestore.integrations.vllm_work import Load, Save

LOAD_BLOCKS = 8
"""Most blocks of one read: so much staging a thread takes at a time."""


@dataclass(eq=False)
class Loading:
    """One load on its way. `threads` take pieces of it in turn; the last to leave says how much came."""

    load: Load
    deadline: Deadline
    threads: int
    _next: int = 0
    _came: dict[int, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def pieces(self) -> Iterator[range]:
        """Blocks for one thread to load next, until none are left or one was not to be had."""
        blocks = len(self.load.keys)
        most = min(LOAD_BLOCKS, -(-blocks // self.threads))
        while True:
            with self._lock:
                piece = range(self._next, min(self._next + most, blocks))
                self._next = piece.stop
            if not piece:
                return
            yield piece

    def came(self, piece: range, blocks: int) -> None:
        """So many leading blocks of a piece are loaded."""
        with self._lock:
            self._came[piece.start] = blocks
            if blocks < len(piece):
                # what lies behind a gap is of no use
                self._next = len(self.load.keys)

    def leave(self) -> bool:
        """A thread is done; whether it was the last."""
        with self._lock:
            self.threads -= 1
            return not self.threads

    @property
    def blocks(self) -> int:
        """How many leading blocks are loaded."""
        count = 0
        while blocks := self._came.get(count, 0):
            count += blocks
        return count


@dataclass(eq=False)
class Saving:
    """One save on its way: which blocks of it have staging, and the slots gathered so far, None after the last."""

    save: Save
    blocks: list[int]
    slots: "SimpleQueue[int | None]" = field(default_factory=SimpleQueue)
    gathered: set[int] = field(default_factory=set)
    over: bool = False

    def each(self) -> Iterator[int]:
        """The slots, as they are gathered; goes on where it was left."""
        while not self.over:
            slot = self.slots.get()
            if slot is None:
                self.over = True
            else:
                yield slot
