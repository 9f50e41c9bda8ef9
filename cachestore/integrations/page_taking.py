"""Blocks from a store's read into an engine's pages, a few layers at a time.

What a core's own cache still has of a piece costs little to copy on. Of a device's pages a piece is a whole block:
there each copy costs more than it moves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from cachestore.block import BlockSpec, Buffer, Slot
from cachestore.codecs.planes import PIECE
from cachestore.engine.page_memory import PageMemory
from cachestore.integrations.page_rows import Held
from cachestore.integrations.pages import EnginePages


@dataclass(eq=False)
class PageTaker:
    """Follows `cachestore.store.base.Taker`; one read at a time, of blocks as the spec of `pages` says."""

    pages: EnginePages
    rooms: Sequence[Buffer] = field(init=False)
    nbytes: int = field(init=False)
    """Host memory that it takes."""
    _held: list[Held] = field(default_factory=list)
    """By block of the read that is on."""

    def __post_init__(self) -> None:
        spec, caches = self.pages.spec, self.pages.caches
        most = PIECE if caches[0].device.type == "cpu" else PageMemory.page_bytes(spec)
        memories: dict[tuple[Slot, ...], PageMemory] = {}
        self._pieces: list[tuple[EnginePages, PageMemory]] = []
        for run in _runs(spec, most):
            some = replace(spec, slots=spec.slots[run.start : run.stop])
            if some.slots not in memories:
                memories[some.slots] = PageMemory(some, 1, torch.device("cpu"))
            pages = EnginePages(some, caches[run.start : run.stop], self.pages.page_tokens)
            self._pieces.append((pages, memories[some.slots]))
        self.rooms = [memory.buffer(0) for _, memory in self._pieces]
        self.nbytes = sum(memory.buffer(0).nbytes for memory in memories.values())

    def towards(self, held: Sequence[int], skip: int) -> None:
        """The next read's blocks go into these pages of the engine; the first `skip` are not written."""
        each = self.pages.per_block
        firsts = range(0, len(held), each)
        self._held = [Held.of(held[first : first + each], min(each, max(0, skip - first))) for first in firsts]

    def take(self, block: int, piece: int) -> None:
        pages, memory = self._pieces[piece]
        pages.give_all(self._held[block], memory, 0)
        cache = pages.caches[0]
        if cache.is_cuda:
            # the room is used again
            torch.cuda.current_stream(cache.device).synchronize()


def _runs(spec: BlockSpec, most: int) -> Iterator[range]:
    """All slots in order, as many at a time as have `most` bytes, at least one."""
    first, total = 0, 0
    for number in range(len(spec.slots)):
        nbytes = PageMemory.page_bytes(replace(spec, slots=spec.slots[number : number + 1]))
        if number > first and total + nbytes > most:
            yield range(first, number)
            first, total = number, 0
        total += nbytes
    yield range(first, len(spec.slots))
