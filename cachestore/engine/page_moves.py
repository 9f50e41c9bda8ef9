"""How the KV in an engine's pages comes to host memory and from there, on threads that may wait.

The engine's thread never waits for a move. It takes a mark, which stands for all that it has launched so far, and hands
it on: what is moved under a mark finds pages as that work leaves them, whatever is launched meanwhile. Whoever hands it
on keeps a reference to the pages until the move is over, so that nobody else writes there.
"""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

from cachestore.block import Buffer

if TYPE_CHECKING:
    from cachestore.engine.page_memory import PageMemory

UNLIMITED = 1 << 62
"""Blocks that a read may ask for where nothing is staged."""


class Mark(Protocol):
    """A place in the order of what the engine's thread launches."""

    def synchronize(self) -> None:
        """Waits until all that was launched before it is done."""


class Incoming(Protocol):
    """Pages that reads of a store fill; for one thread, and one read at a time."""

    @property
    def most(self) -> int:
        """How many blocks one read may ask for."""

    def into(self, first: int, end: int) -> Sequence[Buffer]:
        """Where the next read lays the blocks of pages `first` up to, not including, `end`: at most `most`."""

    def came(self) -> None:
        """The read has handed out its next block."""

    def settle(self) -> None:
        """The read is over; waits until all that came is in its pages."""


class PageMoves(Protocol):
    """Moves between the pages of one memory and the host."""

    def mark(self) -> Mark:
        """For the engine's thread."""

    def here(self) -> AbstractContextManager[None]:
        """Inside, the engine's thread launches on the device of the pages."""

    def lost(self) -> bool:
        """Whether the device does nothing for this process any more, as after a kernel's fault; another may use it."""

    def outgoing(self, pages: Sequence[int], slots: range, mark: Mark) -> Generator[Buffer, None, None]:
        """The bytes of these slots of each page, in canonical order; each until the next is asked for.

        Close it before the references to the pages are given back.
        """

    def incoming(self, pages: Sequence[int], mark: Mark) -> Incoming:
        """Pages to be filled, to which nobody else refers."""

    def beside(self, mark: Mark) -> AbstractContextManager[None]:
        """Inside, kernels are launched beside the engine's own, after the mark; at its end they are done."""


class Done:
    """A mark where whatever returns is done."""

    def synchronize(self) -> None:
        """Nothing."""


class HostMoves:
    """Pages in host memory, which stores read and fill where they are."""

    def __init__(self, memory: "PageMemory") -> None:
        self._memory = memory

    def mark(self) -> Mark:
        return Done()

    def here(self) -> AbstractContextManager[None]:
        return nullcontext()

    def lost(self) -> bool:
        return False

    def outgoing(self, pages: Sequence[int], slots: range, mark: Mark) -> Generator[Buffer, None, None]:
        span = self._memory.span(slots)
        for page in pages:
            yield self._memory.planes(page, *span)

    def incoming(self, pages: Sequence[int], mark: Mark) -> Incoming:
        return InPlace([self._memory.buffer(page) for page in pages])

    def beside(self, mark: Mark) -> AbstractContextManager[None]:
        return nullcontext()


class InPlace:
    """Pages that a read fills itself."""

    most = UNLIMITED

    def __init__(self, pages: Sequence[Buffer]) -> None:
        self._pages = pages

    def into(self, first: int, end: int) -> Sequence[Buffer]:
        return self._pages[first:end]

    def came(self) -> None:
        """It is there."""

    def settle(self) -> None:
        """Nothing."""
