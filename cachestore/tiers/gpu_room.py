"""Room on a device for another block: free pages first, then another slab, then others leave. Under the tier's lock."""

import logging
from dataclasses import dataclass, field

from cachestore.deadline import Deadline
from cachestore.tiers.base import Departure
from cachestore.tiers.breaker import Breaker
from cachestore.tiers.gpu_memory import DEVICE_ERRORS
from cachestore.tiers.gpu_pages import PagePool, PageSlot
from cachestore.tiers.gpu_residents import Residents

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Room:
    """The pages of a tier and the blocks in them.

    A device that has no memory left is not asked for more with every block: that stalls whoever computes on it.
    """

    pool: PagePool
    blocks: Residents
    _growth: Breaker = field(default_factory=lambda: Breaker(failures=1))

    def take(self, namespace: bytes, nbytes: int, deadline: Deadline, gone: list[Departure]) -> PageSlot | None:
        """A page; None if too little may leave for it in time. Those that left are appended to `gone`."""
        while nbytes <= self.pool.largest() and deadline.remaining():
            slot = self.pool.take(namespace, nbytes)
            if slot is not None:
                return slot
            if self._grown(namespace, nbytes):
                continue
            departure = self._evicted(namespace)
            if departure is None:
                return None
            gone.append(departure)
        return None

    def _grown(self, namespace: bytes, nbytes: int) -> bool:
        if not self._growth.allows():
            return False
        try:
            grown = self.pool.grow(namespace, nbytes)
        except DEVICE_ERRORS as error:
            self._growth.failed()
            log.warning("gpu tier: the device gives no more memory (%s); it keeps %d bytes", error, self.pool.taken)
            return False
        if grown:
            self._growth.succeeded()
        return grown

    def _evicted(self, namespace: bytes) -> Departure | None:
        """One block less: in the slab of another namespace that holds more, where that could help, or its own."""
        own = sum(slab.nbytes for slab in self.pool.slabs(namespace))
        slab = None if self._growth.open else self.pool.richest(own)
        if slab is not None:
            other = self.blocks.evict(slab.namespace, slab) or self.blocks.evict(slab.namespace)
            if other is not None:
                return other
        return self.blocks.evict(namespace)
