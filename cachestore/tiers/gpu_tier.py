"""Raw pages on a torch device, owned by the worker that owns the device.

1. It stands above memory: it gets copies of what is read often, or blocks that a worker has on the device already
   (`put_pages`). It acknowledges nothing as durable.
2. A page is what the device computes with: the raw planes of a block, without coding. Its header stays in host memory,
   so that the block can be had in sealed form, too.
3. In this process pages are handed out under a hold (`pages`); to other processes of the namespace by slab (`export`,
   `cachestore.tiers.gpu_sharing`), with a generation to check.
4. Room is shared: a namespace takes a slab from the one that holds most, if that is more than its own; else its own
   leaves go.

In the process of the store the tier is one of its tiers. That a worker of another process registers its pages with the
store of its node needs a call on the wire, which does not exist yet; `catalogue` and what `departed` is told are what
it will carry.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import TypeVar

import torch
from torch import Tensor

from cachestore.block import Buffer
from cachestore.codecs.planes import decode_planes
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.eviction.base import Eviction
from cachestore.hashing import KEY_BYTES
from cachestore.seal import CorruptBlock, Header
from cachestore.tiers.base import Departed, Departure, Found, Usage
from cachestore.tiers.breaker import Breaker
from cachestore.tiers.gpu_blocks import DeviceBlock, empty_block, page_bytes, page_checksums, raw_form
from cachestore.tiers.gpu_memory import DEVICE_ERRORS, DeviceMemory
from cachestore.tiers.gpu_pages import Page, PagePool, PageSlot, Slab
from cachestore.tiers.gpu_residents import Resident, Residents
from cachestore.tiers.gpu_room import Room
from cachestore.tiers.gpu_sharing import Export, Registered, handles_of
from cachestore.tiers.ledger import Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(eq=False)
class GpuTier:
    """Follows `cachestore.tiers.base.ColdTier`. Its lock is never held while bytes are copied.

    `checksums` takes a page and its planes' sizes, and is where a kernel that hashes on the device goes.
    """

    find: Callable[[], DeviceMemory]
    capacity: int
    slab_bytes: int
    eviction: Eviction
    verify: bool = True
    checksums: Callable[[Tensor, Sequence[int]], list[int]] = page_checksums
    name: str = "gpu"
    durable: bool = False
    hot: bool = True
    ledger: Ledger = field(default_factory=lambda: Ledger("gpu"))
    _memory: DeviceMemory = field(init=False)
    _room: Room | None = None
    _blocks: Residents = field(init=False)
    _departed: Departed | None = None
    _held: dict[Page, Resident] = field(default_factory=dict)
    _exports: dict[Export, Sequence[Slab]] = field(default_factory=dict)
    _device: Breaker = field(default_factory=Breaker)
    _lock: RLock = field(default_factory=RLock)
    _writer: bytes = field(default_factory=lambda: os.urandom(16))
    _sequence: int = 0

    def __post_init__(self) -> None:
        self._blocks = Residents(self.eviction, self.ledger, self._give)

    @property
    def healthy(self) -> bool:
        return not self._device.open

    def open(self, departed: Departed) -> None:
        memory = self.find()
        with self._lock:
            self._memory, self._departed = memory, departed
            self._room = Room(PagePool(memory, self.capacity, self.slab_bytes), self._blocks)

    def close(self) -> None:
        with self._lock:
            for namespace in self._blocks.namespaces():
                self._blocks.clear(namespace, "cleared")
            if self._room is not None:
                self._room.pool.close()
            self._room = None

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        there = self.present(namespace, keys, deadline)
        return there.index(False) if False in there else len(there)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        with self._locked():
            if not self.healthy or not deadline.remaining():
                return [False] * len(keys)
            return [self._blocks.find(namespace, key) is not None for key in keys]

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = self._use(namespace, keys, deadline)
        try:
            return [self._try(partial(self._copied_out, block), deadline) if block else None for block in found]
        finally:
            self._leave(found)

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        return [not durable and self._put(namespace, key, sealed, ttl, deadline) for key, sealed in blocks]

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        with self._locked():
            if self._room is None or not deadline.remaining():
                return None
            found = [self._blocks.find(namespace, key) for key in keys]
            for block in found:
                if block is not None and not block.gone:
                    self._blocks.remove(block, why)
            return [block is not None for block in found]

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        with self._locked():
            if self._room is None or not deadline.remaining():
                return None
            return self._blocks.clear(namespace, "cleared")

    def usage(self) -> Usage:
        with self._locked():
            if self._room is None or not self.healthy:
                return Usage(0, self.capacity)
            return self._room.pool.usage()

    def pages(
        self, namespace: bytes, fingerprint: bytes, keys: Sequence[bytes], deadline: Deadline
    ) -> list[Page | None]:
        """The pages of those blocks of this spec that are here, each held until it is released.

        Nothing raises for a device that is broken: such a block is None, and so is one whose bytes do not hold.
        """
        found = self._use(namespace, keys, deadline)
        try:
            wanted = [
                block
                if block is not None and block.header.fingerprint == fingerprint and self._verified(block, deadline)
                else None
                for block in found
            ]
            with self._lock:
                return [self._page(block) if block is not None else None for block in wanted]
        finally:
            self._leave(found)

    def put_pages(
        self, namespace: bytes, fingerprint: bytes, blocks: Sequence[DeviceBlock], deadline: Deadline
    ) -> list[bool]:
        """Keeps blocks that are on the device already; which ones are there now. What was there first stays.

        InvalidArgument if a tensor is on another device.
        """
        if len(namespace) != KEY_BYTES or len(fingerprint) != KEY_BYTES:
            raise InvalidArgument(f"namespace and fingerprint have {KEY_BYTES} bytes each")
        return [self._put_page(namespace, fingerprint, block, deadline) for block in blocks]

    def export(self, namespace: bytes) -> Export:
        """The slabs of one namespace for another process of it, which stay until the export is closed.

        Unavailable if the process may open no more descriptors.
        """
        with self._lock:
            slabs = self._room.pool.slabs(namespace) if self._room is not None else []
            export = Export(handles_of(slabs, self._memory.name) if slabs else (), self._end_export)
            for slab in slabs:
                slab.exports += 1
            self._exports[export] = slabs
            return export

    def catalogue(self, namespace: bytes) -> list[Registered]:
        """Where the blocks of a namespace lie in its slabs: what an index elsewhere needs to know of them."""
        with self._locked():
            return [Registered.of(block.header, block.slot) for block in self._blocks.all(namespace)]

    @contextmanager
    def _locked(self) -> Iterator[list[Departure]]:
        """The lock, once the blocks have left whose time is over. What leaves is told when the lock is free again."""
        gone: list[Departure] = []
        try:
            with self._lock:
                gone += self._blocks.overdue()
                yield gone
        finally:
            if gone and self._departed is not None:
                self._departed(gone)

    def _use(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Resident | None]:
        with self._locked():
            if not deadline.remaining():
                return [None] * len(keys)
            found = [self._blocks.find(namespace, key) for key in keys]
            self._blocks.use(found)
            return found

    def _leave(self, found: Sequence[Resident | None]) -> None:
        with self._lock:
            for block in found:
                if block is not None:
                    self._blocks.leave(block)

    def _copied_out(self, block: Resident) -> Buffer:
        header, page = block.header, block.slot.tensor
        sealed = empty_block(header)
        for start, offset, nbytes in block.pieces:
            target = sealed[header.size + offset : header.size + offset + nbytes]
            self._memory.copy(page[start : start + nbytes], torch.from_numpy(target))
        return sealed

    def _put(self, namespace: bytes, key: bytes, sealed: Buffer, ttl: float | None, deadline: Deadline) -> bool:
        try:
            header = Header.parse(sealed)
            header.check_identity(namespace, key, header.fingerprint)
            raw = raw_form(header)
        except CorruptBlock:
            return False
        planes, payload = range(len(header.table)), sealed[header.size :]

        def write(page: Tensor) -> Header:
            self._memory.fill(page, lambda host: decode_planes(header, planes, payload, host))
            return raw

        return self._store(namespace, page_bytes(raw), _ends(raw.expires, ttl), deadline, write)

    def _put_page(self, namespace: bytes, fingerprint: bytes, block: DeviceBlock, deadline: Deadline) -> bool:
        with self._locked():
            there = self._blocks.find(namespace, block.key)
            if there is not None or self._room is None:
                return there is not None and there.header.fingerprint == fingerprint
            self._sequence += 1
            sequence = self._sequence
        if block.tensor.device != self._memory.device:
            raise InvalidArgument(f"the tensor is on {block.tensor.device}, the tier's pages on {self._memory.device}")

        def write(page: Tensor) -> Header:
            flat = block.flat
            self._memory.fence()
            self._memory.copy(flat, page)
            # of the page, so that they speak of what is kept
            sums = self._checksums(page, [plane.raw_bytes for plane in block.planes])
            return block.sealed(namespace, fingerprint, self._writer, sequence, sums)

        return self._store(namespace, block.tensor.nbytes, _ends(block.expires, None), deadline, write)

    def _store(
        self, namespace: bytes, nbytes: int, ends: float, deadline: Deadline, write: Callable[[Tensor], Header]
    ) -> bool:
        """Has `write` fill a page and say its header in raw form, then makes the block visible."""
        if ends <= time.monotonic():
            return False
        try:
            return self._try(partial(self._written, namespace, nbytes, ends, deadline, write), deadline) or False
        except CorruptBlock:
            return False

    def _written(
        self, namespace: bytes, nbytes: int, ends: float, deadline: Deadline, write: Callable[[Tensor], Header]
    ) -> bool | None:
        slot = self._take(namespace, nbytes, deadline)
        if slot is None:
            return None
        try:
            block = Resident(write(slot.tensor), slot, ends)
        except BaseException:
            with self._lock:
                self._give(slot)
            raise
        with self._locked():
            # the tier may have been closed meanwhile
            if slot.slab.closed:
                return None
            self._blocks.add(block)
            return True

    def _take(self, namespace: bytes, nbytes: int, deadline: Deadline) -> PageSlot | None:
        with self._locked() as gone:
            return self._room.take(namespace, nbytes, deadline, gone) if self._room is not None else None

    def _give(self, slot: PageSlot) -> None:
        if self._room is not None:
            self._room.pool.give(slot)

    def _try(self, do: Callable[[], T], deadline: Deadline) -> T | None:
        """What `do` does with the device; None if the device does not do it, is given up, or the time is over.

        `do` gives None where it did not come to asking the device.
        """
        if not deadline.remaining() or not self._device.allows():
            return None
        try:
            result = do()
        except DEVICE_ERRORS as error:
            self._device.failed()
            log.warning("gpu tier: the device fails: %s", error)
            return None
        except CorruptBlock:
            self._device.succeeded()
            raise
        if result is not None:
            self._device.succeeded()
        return result

    def _verified(self, block: Resident, deadline: Deadline) -> bool:
        if not self.verify:
            return True
        table = block.header.table
        sums = self._try(partial(self._checksums, block.slot.tensor, table["raw_bytes"].tolist()), deadline)
        if sums is None or sums == table["raw_checksum"].tolist():
            return sums is not None
        with self._locked() as gone:
            if not block.gone:
                gone.append(self._blocks.remove(block, "corrupt"))
        return False

    def _checksums(self, page: Tensor, sizes: Sequence[int]) -> list[int]:
        with self._memory.aside():
            return self.checksums(page, sizes)

    def _page(self, block: Resident) -> Page:
        slot = block.slot
        self._blocks.hold(block)
        page = Page(slot.tensor, block.header, slot.generation, slot.slab.words, slot.offset, self._release)
        self._held[page] = block
        return page

    def _release(self, page: Page) -> None:
        with self._lock:
            block = self._held.pop(page, None)
            if block is not None:
                with suppress(*DEVICE_ERRORS):
                    self._memory.fence()
                self._blocks.leave(block)

    def _end_export(self, export: Export) -> None:
        with self._lock:
            slabs = self._exports.pop(export, None)
            if slabs is not None:
                for slab in slabs:
                    slab.exports -= 1
                for handle in export.handles:
                    handle.close()


def _ends(expires: int, ttl: float | None) -> float:
    """When a block ends in monotonic seconds: with its header's end, or when its time to live is over, if sooner."""
    now = time.monotonic()
    header = now + expires / 1000 - time.time() if expires else math.inf
    return min(header, math.inf if ttl is None else now + ttl)
