"""Shared memory under a hard cap.

1. The cap is on slabs, so it holds for memory taken, not only for bytes in use.
2. A slab never changes its namespace. An empty one is kept for its namespace until another needs the room.
3. Callers hold the store's lock for `take`, `shrink` and `give`; bytes are copied without it.
"""

from dataclasses import dataclass, field

from cachestore.config import Bytes
from cachestore.errors import ConfigError
from cachestore.seal import MAX_PAYLOAD
from cachestore.tiers.base import Usage
from cachestore.tiers.slab import UNIT, WORD_BYTES, Slab, Slot

MIB = 1 << 20


@dataclass(frozen=True)
class Cpu:
    """`capacity` bytes at most, taken in slabs of `slab` bytes (0: an eighth of the capacity, at most 64 MiB)."""

    capacity: Bytes
    slab: Bytes = 0

    def __post_init__(self) -> None:
        if self.capacity < UNIT:
            raise ConfigError(f"tiers.cpu.capacity must be at least {UNIT} bytes, got {self.capacity}")
        if not 0 <= self.slab <= self.capacity:
            raise ConfigError(f"tiers.cpu.slab must lie between 0 and the capacity, got {self.slab}")

    def start(self) -> "CpuTier":
        return CpuTier(self.capacity, self.slab or min(max(self.capacity // 8, MIB), 64 * MIB, self.capacity))


@dataclass(eq=False)
class CpuTier:
    """The slabs of one store."""

    capacity: int
    slab_bytes: int
    name: str = "cpu"
    _slabs: list[Slab] = field(default_factory=list)
    _generation: int = 0

    def largest(self) -> int:
        """Bytes of the largest block that could ever be held."""
        return min(self.capacity // UNIT * UNIT - WORD_BYTES, MAX_PAYLOAD)

    def take(self, namespace: bytes, nbytes: int) -> Slot | None:
        """A slot of `nbytes` for a block of `namespace`, or None if that needs others to leave first."""
        need = nbytes + WORD_BYTES
        for slab in self._slabs:
            if slab.namespace == namespace and (offset := slab.extents.take(need)) is not None:
                return self._slot(slab, offset, nbytes)
        size = -(-max(self.slab_bytes, need) // UNIT) * UNIT
        self._drop_empty(size)
        room = (self.capacity - self.taken) // UNIT * UNIT
        if room < need:
            return None
        slab = Slab(namespace, min(size, room))
        self._slabs.append(slab)
        offset = slab.extents.take(need)
        assert offset is not None
        return self._slot(slab, offset, nbytes)

    def shrink(self, slot: Slot, nbytes: int) -> None:
        """Gives back what a slot has beyond `nbytes`."""
        extents = slot.slab.extents
        old, new = extents.rounded(slot.nbytes + WORD_BYTES), extents.rounded(nbytes + WORD_BYTES)
        if new < old:
            extents.give(slot.offset + new, old - new)
        slot.nbytes = nbytes

    def give(self, slot: Slot) -> None:
        """Takes a slot back. Its generation ends before its memory can be given out again."""
        # what the word says is not asked: memory that others can reach must not decide what is free
        assert slot.live
        slot.live = False
        slot.slab.words[slot.offset // 8] = 0
        slot.slab.extents.give(slot.offset, slot.nbytes + WORD_BYTES)

    @property
    def taken(self) -> int:
        """Bytes of all slabs: never above the capacity."""
        return sum(slab.size for slab in self._slabs)

    def usage(self) -> Usage:
        """Bytes given out in slots."""
        return Usage(sum(slab.size - slab.extents.free for slab in self._slabs), self.capacity)

    def slabs(self, namespace: bytes) -> list[Slab]:
        """The slabs of one namespace."""
        return [slab for slab in self._slabs if slab.namespace == namespace]

    def close(self) -> None:
        """Gives up all memory."""
        while self._slabs:
            self._slabs.pop().close()

    def _slot(self, slab: Slab, offset: int, nbytes: int) -> Slot:
        self._generation += 1
        slab.words[offset // 8] = self._generation
        return Slot(slab, offset, nbytes, self._generation)

    def _drop_empty(self, wanted: int) -> None:
        for slab in [slab for slab in self._slabs if slab.extents.empty]:
            if self.capacity - self.taken >= wanted:
                return
            self._slabs.remove(slab)
            slab.close()
