"""Moves of pages that lie on a device: gathered there, and copied beside the computation.

Each way has a stream of its own. Many pages are one launch and one copy, to or from host memory that is locked, so that
the device copies at its own speed while the host goes on; no more than `STAGED` bytes of it at a time, twice on the way
out, where the next are copied while a store takes those before.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Encoded
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.codecs.pages import decode_pages, takes
from cachestore.engine.page_moves import Incoming, Mark

if TYPE_CHECKING:
    from cachestore.engine.page_memory import PageMemory

STAGED = 64 << 20
"""Bytes of host memory for one move."""

PIECE = 8 << 20
"""Bytes that a read brings before their copy to the device begins: enough to keep it busy, and little to wait for."""


class DeviceMoves:
    """Moves for a memory on a device. One on the CPU has the same, with streams that do nothing, for tests."""

    def __init__(self, memory: "PageMemory") -> None:
        self.memory = memory
        self.streams: Any = torch.get_device_module(memory.device)
        """The module of torch with this device's `Stream` and `Event`."""
        self.locked = memory.device.type == "cuda"
        with self.here():
            self._out, self.inward = self.streams.Stream(), self.streams.Stream()

    def mark(self) -> Mark:
        mark: Mark = self.streams.Event()
        mark.record()  # type: ignore[attr-defined]
        return mark

    def here(self) -> AbstractContextManager[None]:
        return torch.cuda.device(self.memory.device) if self.memory.device.type == "cuda" else nullcontext()

    def lost(self) -> bool:
        try:
            with self.here():
                self.mark().synchronize()
        except RuntimeError:
            return True
        return False

    def outgoing(self, pages: Sequence[int], slots: range, mark: Mark) -> Generator[Buffer, None, None]:
        most = max(1, STAGED // self.memory.nbytes(slots))
        staged: deque[tuple[Tensor, Mark]] = deque()
        with self.on(self._out):
            there = torch.tensor(pages, device=self.memory.device)
        try:
            for start in range(0, len(pages), most):
                staged.append(self._begun(there[start : start + most], slots, mark))
                if len(staged) == 2:
                    yield from _taken(*staged.popleft())
            yield from _taken(*staged.popleft())
        finally:
            for _, copied in staged:
                copied.synchronize()

    def incoming(self, pages: Sequence[int], mark: Mark) -> Incoming:
        return Staged(self, pages, mark)

    @contextmanager
    def beside(self, mark: Any) -> Iterator[None]:
        with self.on(self._out):
            mark.wait(self._out)
            try:
                yield
            finally:
                self.mark().synchronize()

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Inside, this thread launches on that stream."""
        with self.here(), self.streams.stream(stream):
            yield

    def staging(self, pages: int, numbers: int) -> Tensor:
        """Host memory for so many numbers of so many pages."""
        return torch.empty(pages, numbers, dtype=self.memory.dtype, pin_memory=self.locked)

    def _begun(self, pages: Tensor, slots: range, mark: Any) -> tuple[Tensor, Mark]:
        """Host memory, and when the bytes of these pages will be there."""
        with self.on(self._out):
            mark.wait(self._out)
            gathered = self.memory.gathered(pages, slots)
            host = self.staging(*gathered.shape)
            host.copy_(gathered, non_blocking=True)
            return host, self.mark()


def _taken(host: Tensor, copied: Mark) -> Iterator[Buffer]:
    copied.synchronize()
    yield from host.view(torch.uint8).numpy()


@dataclass(frozen=True)
class OnePage:
    """Page `number`, int64 [1] as `there`, that nobody uses after `mark`."""

    moves: DeviceMoves
    number: int
    there: Tensor
    mark: Mark

    def decode(self, planes: Sequence[PlaneId], coded: Sequence[Encoded]) -> bool | None:
        """Follows `Elsewhere`."""
        memory = self.moves.memory
        if memory.kernels is None or tuple(planes) != tuple(memory.spec.planes()) or not takes(coded):
            return None
        pools = memory.pools(range(len(memory.spec.slots)))
        with self.moves.on(self.moves.inward):
            return decode_pages(memory.spec, pools, self.there, [coded], method=memory.kernels)[0]

    def page(self, device: torch.device) -> Tensor | None:
        """Follows `Elsewhere`."""
        page = self.moves.memory.page(self.number)
        if page.device != device:
            return None
        # it is filled on no stream of ours
        self.mark.synchronize()
        return page


class Staged:
    """Pages that a read fills by way of host memory: copied there in pieces while it goes on.

    Of blocks that kernels decode only what is stored crosses to the device; of those in pages there already, nothing.
    """

    def __init__(self, moves: DeviceMoves, pages: Sequence[int], mark: Any) -> None:
        self._moves = moves
        self._pages = pages
        self._mark = mark
        self._page_bytes = moves.memory.page_bytes(moves.memory.spec)
        self._there: Tensor | None = None
        self._host: Tensor | None = None
        self._rows: Sequence[DecodingBuffer] = ()
        self._first = self._count = self._sent = 0

    @property
    def most(self) -> int:
        return max(1, STAGED // self._page_bytes)

    def into(self, first: int, end: int) -> Sequence[Buffer]:
        moves, memory = self._moves, self._moves.memory
        if self._host is None or self._there is None:
            self._host = moves.staging(min(self.most, len(self._pages)), self._page_bytes // memory.dtype.itemsize)
            with moves.on(moves.inward):
                # whoever had the pages before may still be reading them
                self._mark.wait(moves.inward)
                self._there = torch.tensor(self._pages, device=memory.device)
        self._first, self._count, self._sent = first, 0, 0
        self._rows = [
            DecodingBuffer.of(row, OnePage(moves, self._pages[at], self._there[at : at + 1], self._mark))
            for at, row in zip(range(first, end), self._host.view(torch.uint8).numpy(), strict=False)
        ]
        return self._rows

    def came(self) -> None:
        if self._rows[self._count].taken:
            self._send()
            self._sent += 1
        self._count += 1
        if (self._count - self._sent) * self._page_bytes >= PIECE:
            self._send()

    def settle(self) -> None:
        try:
            self._send()
        finally:
            # what was sent may still be on its way to pages that are given back now
            with self._moves.on(self._moves.inward):
                self._moves.mark().synchronize()

    def _send(self) -> None:
        """Copies what came since the last time."""
        memory, (start, end) = self._moves.memory, (self._sent, self._count)
        if start == end:
            return
        assert self._host is not None and self._there is not None
        with self._moves.on(self._moves.inward):
            brought = self._host[start:end].to(memory.device, non_blocking=True)
            memory.scattered(self._there[self._first + start : self._first + end], brought)
        self._sent = end
