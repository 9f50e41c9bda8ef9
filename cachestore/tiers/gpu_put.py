"""One block on its way to a device: a page is taken for it and filled, then the block is visible."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from torch import Tensor

from cachestore.block import Buffer
from cachestore.codecs.planes import decode_planes
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.seal import CorruptBlock, Header
from cachestore.tiers.gpu_blocks import DeviceBlock, page_bytes, raw_form
from cachestore.tiers.gpu_filling import Filling, ends_of
from cachestore.tiers.gpu_residents import Resident
from cachestore.tiers.gpu_work import GpuWork


@dataclass(eq=False)
class GpuPut:
    """Blocks come sealed, or lie on the device already; those get headers that name this tier's incarnation."""

    work: GpuWork
    _writer: bytes = field(default_factory=lambda: os.urandom(16))
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def sealed(self, namespace: bytes, key: bytes, sealed: Buffer, ttl: float | None, deadline: Deadline) -> bool:
        """Keeps a sealed block, its planes decoded; whether it is there now."""
        try:
            header = Header.parse(sealed)
            header.check_identity(namespace, key, header.fingerprint)
            raw = raw_form(header)
        except CorruptBlock:
            return False
        planes, payload = range(len(header.table)), sealed[header.size :]

        def write(page: Tensor) -> Header:
            self.work.memory.fill(page, lambda host: decode_planes(header, planes, payload, host))
            return raw

        return self._store(namespace, page_bytes(raw), ends_of(raw.expires, ttl), deadline, write)

    def on_device(self, namespace: bytes, fingerprint: bytes, block: DeviceBlock, deadline: Deadline) -> bool:
        """Keeps a copy of a block; whether it is there now. What was there first stays.

        InvalidArgument if its tensor is on another device.
        """
        with self.work.locked():
            there = self.work.blocks.find(namespace, block.key)
            if there is not None or self.work.room is None:
                return there is not None and there.header.fingerprint == fingerprint
        if block.tensor.device != self.work.memory.device:
            pages = self.work.memory.device
            raise InvalidArgument(f"the tensor is on {block.tensor.device}, the tier's pages on {pages}")

        def write(page: Tensor) -> Header:
            flat = block.flat
            self.work.memory.fence()
            self.work.memory.copy(flat, page)
            # of the page, so that they speak of what is kept
            sums = self.work.sums(page, [plane.raw_bytes for plane in block.planes])
            return self.seal(namespace, fingerprint, block, sums)

        return self._store(namespace, block.tensor.nbytes, ends_of(block.expires, None), deadline, write)

    def begin(self, namespace: bytes, key: bytes, nbytes: int, deadline: Deadline) -> Filling | None:
        """Room for a block that comes in pieces; None if there is none, or the block is there already."""
        with self.work.locked():
            if self.work.blocks.find(namespace, key) is not None:
                return None
        slot = self.work.attempt(partial(self.work.take, namespace, nbytes, deadline), deadline)
        return Filling(namespace, self.work, slot) if slot is not None else None

    def seal(self, namespace: bytes, fingerprint: bytes, block: DeviceBlock, sums: Sequence[int]) -> Header:
        """The header of a block on the device, as one more that was written here."""
        return block.sealed(namespace, fingerprint, self._writer, next(self._numbers), sums)

    def _store(
        self, namespace: bytes, nbytes: int, ends: float, deadline: Deadline, write: Callable[[Tensor], Header]
    ) -> bool:
        """Has `write` fill a page and say its header in raw form, then makes the block visible."""
        if ends <= time.monotonic():
            return False
        try:
            written = partial(self._written, namespace, nbytes, ends, deadline, write)
            return self.work.attempt(written, deadline) or False
        except CorruptBlock:
            return False

    def _written(
        self, namespace: bytes, nbytes: int, ends: float, deadline: Deadline, write: Callable[[Tensor], Header]
    ) -> bool | None:
        slot = self.work.take(namespace, nbytes, deadline)
        if slot is None:
            return None
        try:
            block = Resident(write(slot.tensor), slot, ends)
        except BaseException:
            with self.work.lock:
                self.work.give(slot)
            raise
        with self.work.locked():
            # the tier may have been closed meanwhile
            if slot.slab.closed:
                return None
            self.work.blocks.add(block)
            return True
