"""What memory promises that is given out in slots under a hard cap, on the host and on devices."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import pytest

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock
from cachestore.tiers.base import Usage

A, B = b"a" * 32, b"b" * 32


class Memory(Protocol):
    """Slots of namespaces, in slabs. A slot is whatever `take` gives: `write`, `read` and `check` know it."""

    @property
    def taken(self) -> int:
        """Bytes of all slabs."""

    def take(self, namespace: bytes, nbytes: int) -> Any:
        """A slot of so many bytes, or None."""

    def give(self, slot: Any) -> None:
        """Takes a slot back."""

    def largest(self) -> int:
        """Bytes of the largest slot that could ever be held."""

    def usage(self) -> Usage:
        """Bytes given out, and the cap."""

    def close(self) -> None:
        """Gives up all memory."""


class MemoryTests(ABC):
    """Subclasses give the fixture `memory`, empty, of `CAPACITY` bytes, and say what its slots are."""

    CAPACITY = 16 << 20

    @pytest.fixture
    def memory(self) -> Iterator[Memory]:
        raise NotImplementedError("give the suite a fixture `memory` that yields empty memory of `CAPACITY` bytes")

    @abstractmethod
    def view(self, slot: Any) -> Buffer:
        """The slot's bytes on the host, to be read and written."""

    @abstractmethod
    def check(self, slot: Any) -> None:
        """CorruptBlock if the slot was taken back."""

    def filled(self, memory: Memory, namespace: bytes, nbytes: int) -> list[Any]:
        """Slots until there is room for no other."""
        slots = []
        while (slot := memory.take(namespace, nbytes)) is not None:
            assert memory.usage().used <= memory.taken <= self.CAPACITY
            slots.append(slot)
        return slots

    @pytest.mark.parametrize("nbytes", [8_000, 500_000, 2_000_000])
    def test_the_cap_holds_and_what_is_given_back_is_given_out_again(self, memory: Memory, nbytes: int) -> None:
        slots = self.filled(memory, A, nbytes)
        assert 0.7 * self.CAPACITY < len(slots) * nbytes <= memory.usage().used
        for slot in slots[::2]:
            memory.give(slot)
        again = self.filled(memory, A, nbytes)
        assert len(again) == len(slots[::2])
        for slot in slots[1::2] + again:
            self.check(slot)
            memory.give(slot)
        assert memory.usage() == (0, self.CAPACITY)

    def test_no_two_slots_share_a_byte(self, memory: Memory) -> None:
        sizes = random.Random(1)
        slots: dict[int, Any] = {}
        for number in range(1, 200):
            slot = memory.take(A if number % 3 else B, sizes.randrange(1, 100_000))
            # a namespace may find that all slabs are another's
            if slot is None:
                continue
            self.view(slot)[:] = number
            slots[number] = slot
            if number % 4 == 0:
                memory.give(slots.pop(sizes.choice(list(slots))))
        assert len(slots) > 50 and all((self.view(slot) == number).all() for number, slot in slots.items())

    def test_a_slot_is_stale_once_it_is_given_back(self, memory: Memory) -> None:
        slot = memory.take(A, 1000)
        self.check(slot)
        memory.give(slot)
        with pytest.raises(CorruptBlock, match="stale"):
            self.check(slot)
        # whoever has its place now is another
        again = memory.take(A, 1000)
        self.check(again)
        with pytest.raises(CorruptBlock, match="stale"):
            self.check(slot)

    def test_no_namespace_sees_what_another_left(self, memory: Memory) -> None:
        slots = self.filled(memory, A, 1 << 20)
        for slot in slots:
            self.view(slot)[:] = 7
        for slot in slots:
            memory.give(slot)
        theirs = self.filled(memory, B, 1 << 20)
        assert len(theirs) == len(slots) and not any(self.view(slot).any() for slot in theirs)

    def test_the_largest_fits_and_one_byte_more_never_does(self, memory: Memory) -> None:
        largest = memory.largest()
        assert memory.take(A, largest + 1) is None
        slot = memory.take(A, largest)
        assert slot is not None and memory.taken <= self.CAPACITY and memory.take(B, 1) is None
        memory.give(slot)
        assert memory.take(B, largest) is not None

    def test_churn_leaves_no_pieces_behind(self, memory: Memory) -> None:
        sizes, slots = random.Random(2), list[Any]()
        for _ in range(2000):
            if slots and sizes.random() < 0.5:
                memory.give(slots.pop(sizes.randrange(len(slots))))
            elif (slot := memory.take(A, sizes.choice([700, 70_000, 700_000]))) is not None:
                slots.append(slot)
        for slot in slots:
            memory.give(slot)
        assert memory.usage().used == 0 and memory.take(B, memory.largest()) is not None

    def test_who_is_late_meets_closed_memory(self, memory: Memory) -> None:
        slot = memory.take(A, 1000)
        view = self.view(slot)
        memory.close()
        view[:] = 7
        memory.give(slot)
        assert (view == 7).all() and memory.taken == memory.usage().used == 0
        memory.close()
