"""Pages of a device moved to the host and back, in Triton's interpreter, and whatever the order of what is launched."""

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Slot
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.engine import device_moves
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.page_memory import PageMemory
from cachestore_kernels.method import Method
from tests.kernels.conftest import interpreting

ALIKE = BlockSpec("m", "r", "bfloat16", (Slot(2, 16, 16),) * 3, 2, block_tokens=8)
MIXED = BlockSpec("m", "r", "float16", (Slot(2, 16, 16), Slot(4, 16, 8), Slot(4, 16, 16)), 2, block_tokens=8)
PAGES = [5, 0, 3, 6, 2]


@pytest.fixture(scope="module", params=["naive", "fused"])
def method(request: pytest.FixtureRequest) -> Iterator[Method]:
    with interpreting():
        yield request.param


@pytest.fixture(params=[ALIKE, MIXED], ids=["alike", "mixed"])
def memory(request: pytest.FixtureRequest, method: Method) -> PageMemory:
    memory = PageMemory(request.param, 8, torch.device("cpu"))
    random = np.random.default_rng(7)
    for page in range(8):
        memory.buffer(page)[:] = random.integers(0, 256, memory.page_bytes(memory.spec), dtype=np.uint8)
    memory.kernels = method
    memory.moves = DeviceMoves(memory)
    return memory


@pytest.fixture(params=[1, 2, 64], ids=lambda pages: f"{pages} at once")
def staged(request: pytest.FixtureRequest, memory: PageMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many pages are moved at a time."""
    monkeypatch.setattr(device_moves, "STAGED", request.param * memory.page_bytes(memory.spec))
    monkeypatch.setattr(device_moves, "PIECE", 2 * memory.page_bytes(memory.spec))


@pytest.mark.parametrize("slots", [range(3), range(1, 2), range(2, 3)], ids=str)
@pytest.mark.usefixtures("staged")
def test_what_goes_out_is_what_lies_there(memory: PageMemory, slots: range) -> None:
    with closing(memory.moves.outgoing(PAGES, slots, memory.moves.mark())) as planes:
        found = [data.copy() for data in planes]
    assert len(found) == len(PAGES)
    for data, page in zip(found, PAGES, strict=True):
        assert np.array_equal(data, memory.planes(page, *memory.span(slots)))


@pytest.mark.usefixtures("staged")
def test_what_comes_in_is_there_and_nothing_else_changes(memory: PageMemory) -> None:
    before = [memory.buffer(page).copy() for page in range(8)]
    incoming = memory.moves.incoming(PAGES, memory.moves.mark())
    first, random = 0, np.random.default_rng(8)
    # the last of them does not come
    while first < len(PAGES) - 1:
        end = min(len(PAGES) - 1, first + incoming.most)
        for number, data in enumerate(incoming.into(first, end), first):
            before[PAGES[number]] = data[:] = random.integers(0, 256, data.nbytes, dtype=np.uint8)
            incoming.came()
        incoming.settle()
        first = end
    for page in range(8):
        assert np.array_equal(memory.buffer(page), before[page])


class Queue:
    """A stream that does what it was given when somebody waits for it: as late as a device may."""

    def __init__(self) -> None:
        self.todo: list[Any] = []

    def catch_up(self, count: int) -> None:
        done, self.todo[:count] = self.todo[:count], []
        for each in done:
            each()


def test_a_move_waits_for_what_was_launched_before_its_mark(
    memory: PageMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's own launches come late; what is moved under a mark sees them, and none of those behind it."""
    late, waited = Queue(), list[object]()

    class Event:
        def record(self, stream: object = None) -> None:
            self.count = len(late.todo)

        def wait(self, stream: object) -> None:
            late.catch_up(self.count)

        def synchronize(self) -> None:
            waited.append(self)
            late.catch_up(self.count)

    moves = DeviceMoves(memory)
    moves.streams = SimpleNamespace(Event=Event, stream=moves.streams.stream)
    whole = range(len(memory.spec.slots))
    late.todo.append(lambda: memory.zero(3))
    mark = moves.mark()
    late.todo.append(lambda: memory.copy(4, 3))
    with closing(moves.outgoing([3], whole, mark)) as planes:
        assert not next(planes).any()
    late.todo.clear()
    late.todo.append(lambda: memory.zero(2))
    incoming = moves.incoming([2], moves.mark())
    data = incoming.into(0, 1)[0]
    data[:] = 7
    incoming.came()
    incoming.settle()
    late.catch_up(len(late.todo))
    assert (memory.buffer(2) == 7).all()
    late.todo.append(lambda: memory.zero(6))
    mark = moves.mark()
    (buffer,) = moves.incoming([6], mark).into(0, 1)
    assert isinstance(buffer, DecodingBuffer) and mark not in waited
    page = buffer.page(memory.device)
    # who fills it does so on a stream that waits for nothing
    assert mark in waited and page is not None and page.data_ptr() == memory.page(6).data_ptr()
    late.todo.append(lambda: memory.zero(1))
    with moves.beside(moves.mark()):
        assert not memory.buffer(1).any()
