"""Memory beside the tier, for blocks that have no room in it, on their way straight to a cold one."""

from dataclasses import dataclass, field

from cachestore.tiers.base import Usage
from cachestore.tiers.cpu import CpuTier
from cachestore.tiers.slab import Slot


@dataclass(eq=False)
class Staging:
    """Memory of its own, and what of it is taken. Callers hold the index's lock."""

    memory: CpuTier
    _taken: set[Slot] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, slot: Slot) -> bool:
        return slot in self._taken

    def take(self, namespace: bytes, nbytes: int, owner: bytes = b"") -> Slot | None:
        """Memory for one block, None if too little is left."""
        slot = self.memory.take(namespace, nbytes, owner)
        if slot is not None:
            self._taken.add(slot)
        return slot

    def give(self, slot: Slot) -> None:
        """Takes memory back that was taken here."""
        self._taken.discard(slot)
        self.memory.give(slot)

    def usage(self) -> Usage:
        """What is taken now, and the cap."""
        return self.memory.usage()
