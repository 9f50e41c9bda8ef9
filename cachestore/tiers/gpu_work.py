"""What the calls of a gpu tier share: the device, the blocks on it, and one lock, never held while bytes are copied."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import TypeVar

from torch import Tensor

from cachestore.deadline import Deadline
from cachestore.eviction.base import Eviction
from cachestore.seal import CorruptBlock
from cachestore.tiers.base import Departed, Departure
from cachestore.tiers.breaker import Breaker
from cachestore.tiers.gpu_memory import DEVICE_ERRORS, DeviceMemory
from cachestore.tiers.gpu_pages import PagePool, PageSlot
from cachestore.tiers.gpu_residents import Resident, Residents
from cachestore.tiers.gpu_room import Room
from cachestore.tiers.ledger import Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(eq=False)
class GpuWork:
    """`room` is None unless the tier is open; `memory` is there from the first `open` on.

    `checksums` takes a page and its planes' sizes.
    """

    eviction: Eviction
    ledger: Ledger
    checksums: Callable[[Tensor, Sequence[int]], list[int]]
    memory: DeviceMemory = field(init=False)
    room: Room | None = None
    blocks: Residents = field(init=False)
    lock: RLock = field(default_factory=RLock)
    _departed: Departed | None = None
    _breaker: Breaker = field(default_factory=Breaker)

    def __post_init__(self) -> None:
        self.blocks = Residents(self.eviction, self.ledger, self.give)

    @property
    def healthy(self) -> bool:
        """False while the device is given up."""
        return not self._breaker.open

    def open(self, memory: DeviceMemory, pool: PagePool, departed: Departed) -> None:
        """From now on blocks have room."""
        with self.lock:
            self.memory, self._departed = memory, departed
            self.room = Room(pool, self.blocks)

    def close(self) -> None:
        """Lets all blocks go, and gives up the memory."""
        with self.lock:
            for namespace in self.blocks.namespaces():
                self.blocks.clear(namespace, "cleared")
            if self.room is not None:
                self.room.pool.close()
            self.room = None

    @contextmanager
    def locked(self) -> Iterator[list[Departure]]:
        """The lock, once the blocks have left whose time is over. What leaves is told when the lock is free again."""
        gone: list[Departure] = []
        try:
            with self.lock:
                gone += self.blocks.overdue()
                yield gone
        finally:
            if gone and self._departed is not None:
                self._departed(gone)

    def use(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Resident | None]:
        """The blocks of these keys, each with one user more until `leave`; none once the deadline is over."""
        with self.locked():
            if not deadline.remaining():
                return [None] * len(keys)
            found = [self.blocks.find(namespace, key) for key in keys]
            self.blocks.use(found)
            return found

    def leave(self, found: Sequence[Resident | None]) -> None:
        """Ends what `use` began."""
        with self.lock:
            for block in found:
                if block is not None:
                    self.blocks.leave(block)

    def take(self, namespace: bytes, nbytes: int, deadline: Deadline) -> PageSlot | None:
        """A page, for which others may have left; None if there is no room for it."""
        with self.locked() as gone:
            return self.room.take(namespace, nbytes, deadline, gone) if self.room is not None else None

    def give(self, slot: PageSlot) -> None:
        """Takes a page back. The caller holds the lock."""
        if self.room is not None:
            self.room.pool.give(slot)

    def attempt(self, do: Callable[[], T], deadline: Deadline) -> T | None:
        """What `do` does with the device; None if the device does not do it, is given up, or the time is over.

        `do` gives None where it did not come to asking the device.
        """
        if not deadline.remaining() or not self._breaker.allows():
            return None
        try:
            result = do()
        except DEVICE_ERRORS as error:
            self._breaker.failed()
            log.warning("gpu tier: the device fails: %s", error)
            return None
        except CorruptBlock:
            self._breaker.succeeded()
            raise
        if result is not None:
            self._breaker.succeeded()
        return result

    def sums(self, page: Tensor, sizes: Sequence[int]) -> list[int]:
        """The checksums of a page's planes, taken without waiting for what others have the device do."""
        with self.memory.aside():
            return self.checksums(page, sizes)
