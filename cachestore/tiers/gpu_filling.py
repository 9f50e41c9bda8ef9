"""A page on its way: a worker fills it piece by piece, as it has a block's planes, and then it is visible."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.seal import Header
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_pages import PageSlot
from cachestore.tiers.gpu_residents import Resident
from cachestore.tiers.gpu_work import GpuWork

Seal = Callable[[DeviceBlock, list[int]], Header]
"""The header of a block whose planes have these checksums."""


@dataclass(eq=False)
class Filling:
    """Room for one block of `namespace`, which nobody sees before `publish`. Close it, whatever became of it.

    One thread at a time uses it. Nothing raises for a device that is broken.
    """

    namespace: bytes
    work: GpuWork
    slot: PageSlot
    _over: bool = False

    @property
    def generation(self) -> int:
        """The page's, once it is visible, in the tier's catalogue."""
        return self.slot.generation

    def write(self, start: int, data: Buffer, deadline: Deadline) -> bool:
        """Whether these bytes are in the page now, from `start` on; they may be reused on return."""
        return not self._over and bool(self.work.attempt(partial(self._written, start, data), deadline))

    def publish(self, block: DeviceBlock, seal: Seal, deadline: Deadline) -> bool:
        """Makes the block visible, whose tensor is this page's, all of it written; False if it is not there now.

        What was there first under its key stays.
        """
        sizes = [plane.raw_bytes for plane in block.planes]
        # of the page, so that they speak of what is kept
        sums = None if self._over else self.work.attempt(partial(self.work.sums, self.slot.tensor, sizes), deadline)
        ends = ends_of(block.expires, None)
        if sums is None or ends <= time.monotonic():
            return False
        resident = Resident(seal(block, sums), self.slot, ends)
        with self.work.locked():
            # the tier may have been closed meanwhile
            if self.slot.slab.closed or self.work.blocks.find(self.namespace, block.key) is not None:
                return False
            self.work.blocks.add(resident)
            self._over = True
            return True

    def close(self) -> None:
        """Gives the page back unless it was published. Closing twice is allowed."""
        if not self._over:
            self._over = True
            with self.work.lock:
                self.work.give(self.slot)

    def _written(self, start: int, data: Buffer) -> bool:
        self.work.memory.fill(self.slot.tensor[start : start + data.nbytes], lambda host: np.copyto(host, data))
        return True


def ends_of(expires: int, ttl: float | None) -> float:
    """When a block ends in monotonic seconds: with its header's end, or when its time to live is over, if sooner."""
    now = time.monotonic()
    header = now + expires / 1000 - time.time() if expires else math.inf
    return min(header, math.inf if ttl is None else now + ttl)
