"""Pages on a device under a hard cap.

1. The cap is on slabs, so it holds for memory taken, not only for bytes in use.
2. A slab never changes its namespace. An empty one is kept for its namespace until another needs the room, unless
   another process has it open.
3. Each page has a generation that others may read, see `cachestore.tiers.gpu_words`.
4. Callers hold the tier's lock; bytes are copied without it.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from torch import Tensor

from cachestore.block import PlaneId
from cachestore.seal import Header
from cachestore.tiers.base import Usage
from cachestore.tiers.extents import Extents
from cachestore.tiers.gpu_memory import GRANULE, Allocation, DeviceMemory, share_readable
from cachestore.tiers.gpu_words import UNIT, Words, check_generation, words_bytes

SPAN = 1 << 48
"""How far apart slabs lie in the address space in which free space is kept; no slab is that long."""


@dataclass(eq=False)
class Slab:
    """`nbytes` bytes on the device that belong to one namespace; `number` is never used again."""

    number: int
    namespace: bytes
    nbytes: int
    allocation: Allocation
    words: Words
    words_descriptor: int
    used: int = 0
    users: int = 0
    """Of its pages, each as often as somebody uses it."""
    exports: int = 0
    closed: bool = False

    def close(self) -> None:
        """Ends all generations; the memory goes when the last view of it does."""
        self.closed = True
        self.words[:] = 0
        self.allocation.close()
        os.close(self.words_descriptor)


@dataclass(eq=False)
class PageSlot:
    """`nbytes` bytes of a slab, given out under one generation until they are taken back."""

    slab: Slab
    offset: int
    nbytes: int
    generation: int

    @property
    def tensor(self) -> Tensor:
        """The bytes on the device, uint8 [nbytes]."""
        return self.slab.allocation.tensor[self.offset : self.offset + self.nbytes]

    @property
    def size(self) -> int:
        """What it takes of its slab."""
        return -(-self.nbytes // UNIT) * UNIT


@dataclass(frozen=True, eq=False)
class Page:
    """A block's raw planes on the device, back to back in the order of its header's table, which is in raw form.

    `tensor` is uint8 [bytes of all planes], for reading only. While it is held (from `GpuTier.pages` until `release`)
    the memory stays this block's; what another process attached is not held, so `check` after the last use of it.
    """

    tensor: Tensor
    header: Header
    generation: int
    words: Words
    offset: int
    on_release: "Callable[[Page], None]"

    @property
    def planes(self) -> tuple[PlaneId, ...]:
        """The planes in the order in which they lie in `tensor`."""
        return self.header.planes()

    def check(self) -> None:
        """CorruptBlock if the page was given to another block; work queued on a device must be done before."""
        check_generation(self.words, self.offset, self.generation)

    def release(self) -> None:
        """Ends the hold; the caller may have reads of it queued on its current stream still. Twice is allowed."""
        self.on_release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


@dataclass(eq=False)
class PagePool:
    """The slabs of one tier, each of `slab_bytes` unless a page needs more."""

    memory: DeviceMemory
    capacity: int
    slab_bytes: int
    _slabs: dict[int, Slab] = field(default_factory=dict)
    _free: dict[bytes, Extents] = field(default_factory=dict)
    _generation: int = 0
    _number: int = 0

    def take(self, namespace: bytes, nbytes: int) -> PageSlot | None:
        """A page in a slab that the namespace has, or None."""
        free = self._free.get(namespace)
        address = free.take(nbytes) if free is not None else None
        if address is None:
            return None
        number, offset = divmod(address, SPAN)
        self._generation += 1
        slot = PageSlot(self._slabs[number], offset, nbytes, self._generation)
        slot.slab.used += slot.size
        slot.slab.words[offset // UNIT] = slot.generation
        return slot

    def grow(self, namespace: bytes, nbytes: int) -> bool:
        """Another slab for the namespace, with room for a page of `nbytes`; False if the cap leaves none.

        One of `DEVICE_ERRORS` if the device does not give it.
        """
        need = -(-nbytes // GRANULE) * GRANULE
        wanted = max(self.slab_bytes, need)
        self._drop_empty(wanted)
        room = (self.capacity - self.taken) // GRANULE * GRANULE
        if room < need:
            return False
        size = min(wanted, room)
        words, descriptor = share_readable(words_bytes(size))
        try:
            allocation = self.memory.allocate(size)
        except BaseException:
            os.close(descriptor)
            raise
        self._number += 1
        array = np.frombuffer(words, dtype=np.uint64)
        self._slabs[self._number] = Slab(self._number, namespace, size, allocation, array, descriptor)
        self._free.setdefault(namespace, Extents(UNIT)).give(self._number * SPAN, size)
        return True

    def give(self, page: PageSlot) -> None:
        """Takes a page back. Its generation ends before its memory can be given out again."""
        slab = page.slab
        if slab.closed:
            return
        check_generation(slab.words, page.offset, page.generation)
        slab.words[page.offset // UNIT] = 0
        slab.used -= page.size
        self._free[slab.namespace].give(slab.number * SPAN + page.offset, page.nbytes)

    def largest(self) -> int:
        """Bytes of the largest page that could ever be held."""
        return self.capacity // GRANULE * GRANULE

    @property
    def taken(self) -> int:
        """Bytes of all slabs: never above the capacity."""
        return sum(slab.nbytes for slab in self._slabs.values())

    def usage(self) -> Usage:
        """Bytes given out in pages."""
        return Usage(sum(slab.used for slab in self._slabs.values()), self.capacity)

    def slabs(self, namespace: bytes) -> list[Slab]:
        """The slabs of one namespace."""
        return [slab for slab in self._slabs.values() if slab.namespace == namespace]

    def richest(self, than: int) -> Slab | None:
        """Of the namespace that holds most, if that is more than `than` bytes, the slab that is emptied soonest.

        Only slabs of which nobody uses a page, and that no other process has open.
        """
        held: dict[bytes, int] = defaultdict(int)
        movable = [slab for slab in self._slabs.values() if not slab.users and not slab.exports]
        for slab in movable:
            held[slab.namespace] += slab.nbytes
        most = max(held, key=lambda namespace: held[namespace], default=b"")
        if held[most] <= than:
            return None
        return min((slab for slab in movable if slab.namespace == most), key=lambda slab: slab.used)

    def close(self) -> None:
        """Gives up all memory."""
        self._free.clear()
        while self._slabs:
            self._slabs.popitem()[1].close()

    def _drop_empty(self, wanted: int) -> None:
        for slab in [slab for slab in self._slabs.values() if not slab.used and not slab.exports]:
            if self.capacity - self.taken >= wanted:
                return
            self._free[slab.namespace].claim(slab.number * SPAN)
            del self._slabs[slab.number]
            if not self.slabs(slab.namespace):
                del self._free[slab.namespace]
            slab.close()
