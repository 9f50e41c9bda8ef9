"""Raw pages on a torch device, owned by the worker that owns the device.

1. It stands above memory: it gets copies of what is read often, or blocks that a worker has on the device already
   (`put_pages`) or computes slot by slot (`open_page`). It acknowledges nothing as durable.
2. A page is what the device computes with: the raw planes of a block, without coding. Its header stays in host memory,
   so that the block can be had in sealed form, too.
3. In this process pages are handed out under a hold (`pages`); to other processes of the namespace by slab (`export`,
   `cachestore.tiers.gpu_sharing`), with a generation to check.
4. Room is shared: a namespace takes a slab from the one that holds most, if that is more than its own; else its own
   leaves go.

In the process of the store the tier is one of its tiers. A worker of another process registers its pages with the store
of its node (`cachestore.service.pages`): `catalogue` is what that tells of them.
"""

from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.eviction.base import Eviction
from cachestore.hashing import KEY_BYTES
from cachestore.tiers.base import Departed, Found, Usage
from cachestore.tiers.gpu_blocks import DeviceBlock, empty_block, page_checksums
from cachestore.tiers.gpu_filling import Filling, Seal
from cachestore.tiers.gpu_memory import DEVICE_ERRORS, DeviceMemory
from cachestore.tiers.gpu_pages import Page, PagePool, Slab
from cachestore.tiers.gpu_put import GpuPut
from cachestore.tiers.gpu_residents import Resident
from cachestore.tiers.gpu_sharing import Export, Registered, handles_of
from cachestore.tiers.gpu_work import GpuWork
from cachestore.tiers.ledger import Ledger


@dataclass(eq=False)
class GpuTier:
    """Follows `cachestore.tiers.base.ColdTier`.

    `checksums` takes a page and its planes' sizes; on CUDA it is a kernel that hashes where they lie.
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
    _work: GpuWork = field(init=False)
    _put: GpuPut = field(init=False)
    _held: dict[Page, Resident] = field(default_factory=dict)
    _exports: dict[Export, Sequence[Slab]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # looked up with every call: whoever has the tier may bring another kernel later
        self._work = GpuWork(self.eviction, self.ledger, lambda page, sizes: self.checksums(page, sizes))
        self._put = GpuPut(self._work)

    @property
    def healthy(self) -> bool:
        return self._work.healthy

    @property
    def memory(self) -> DeviceMemory:
        """The device's memory, from the first `open` on."""
        return self._work.memory

    def open(self, departed: Departed) -> None:
        memory = self.find()
        self._work.open(memory, PagePool(memory, self.capacity, self.slab_bytes), departed)

    def close(self) -> None:
        self._work.close()

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        there = self.present(namespace, keys, deadline)
        return there.index(False) if False in there else len(there)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        with self._work.locked():
            if not self.healthy or not deadline.remaining():
                return [False] * len(keys)
            return [self._work.blocks.find(namespace, key) is not None for key in keys]

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = self._work.use(namespace, keys, deadline)
        try:
            attempt = self._work.attempt
            return [attempt(partial(self._copied_out, block), deadline) if block else None for block in found]
        finally:
            self._work.leave(found)

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        return [not durable and self._put.sealed(namespace, key, sealed, ttl, deadline) for key, sealed in blocks]

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        with self._work.locked():
            if self._work.room is None or not deadline.remaining():
                return None
            found = [self._work.blocks.find(namespace, key) for key in keys]
            for block in found:
                if block is not None and not block.gone:
                    self._work.blocks.remove(block, why)
            return [block is not None for block in found]

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        with self._work.locked():
            if self._work.room is None or not deadline.remaining():
                return None
            return self._work.blocks.clear(namespace, "cleared")

    def keys(self, namespace: bytes) -> list[bytes]:
        with self._work.locked():
            return [block.header.key for block in self._work.blocks.all(namespace)]

    def usage(self, deadline: Deadline | None = None) -> Usage:
        with self._work.locked():
            if self._work.room is None or not self.healthy:
                return Usage(0, self.capacity)
            return self._work.room.pool.usage()

    def pages(
        self, namespace: bytes, fingerprint: bytes, keys: Sequence[bytes], deadline: Deadline
    ) -> list[Page | None]:
        """The pages of those blocks of this spec that are here, each held until it is released.

        Nothing raises for a device that is broken: such a block is None, and so is one whose bytes do not hold.
        """
        found = self._work.use(namespace, keys, deadline)
        try:
            wanted = [
                block
                if block is not None and block.header.fingerprint == fingerprint and self._verified(block, deadline)
                else None
                for block in found
            ]
            with self._work.lock:
                return [self._page(block) if block is not None else None for block in wanted]
        finally:
            self._work.leave(found)

    def put_pages(
        self, namespace: bytes, fingerprint: bytes, blocks: Sequence[DeviceBlock], deadline: Deadline
    ) -> list[bool]:
        """Keeps blocks that are on the device already; which ones are there now. What was there first stays.

        InvalidArgument if a tensor is on another device.
        """
        if len(namespace) != KEY_BYTES or len(fingerprint) != KEY_BYTES:
            raise InvalidArgument(f"namespace and fingerprint have {KEY_BYTES} bytes each")
        return [self._put.on_device(namespace, fingerprint, block, deadline) for block in blocks]

    def open_page(self, namespace: bytes, key: bytes, nbytes: int, deadline: Deadline) -> Filling | None:
        """Room for a block whose planes come in pieces; None if there is none, or the block is here already."""
        if len(namespace) != KEY_BYTES or len(key) != KEY_BYTES:
            raise InvalidArgument(f"namespace and key have {KEY_BYTES} bytes each")
        return self._put.begin(namespace, key, nbytes, deadline)

    def seal(self, namespace: bytes, fingerprint: bytes) -> Seal:
        """How the header of a block that came in pieces is made, for `Filling.publish`."""
        return partial(self._put.seal, namespace, fingerprint)

    def export(self, namespace: bytes, besides: Container[int] = ()) -> Export:
        """The slabs of one namespace for another process of it, but for those of the numbers `besides`.

        They stay until the export is closed. Unavailable if the process may open no more descriptors.
        """
        with self._work.lock:
            all_slabs = self._work.room.pool.slabs(namespace) if self._work.room is not None else []
            slabs = [slab for slab in all_slabs if slab.number not in besides]
            export = Export(handles_of(slabs, self._work.memory.name) if slabs else (), self._end_export)
            for slab in slabs:
                slab.exports += 1
            self._exports[export] = slabs
            return export

    def catalogue(self, namespace: bytes) -> list[Registered]:
        """Where the blocks of a namespace lie in its slabs: what an index elsewhere needs to know of them."""
        with self._work.locked():
            return [Registered.of(block.header, block.slot) for block in self._work.blocks.all(namespace)]

    def drop(self, namespace: bytes, generations: Container[int] | None, why: str) -> None:
        """Removes the blocks in pages of these generations, of all for None: not what came under their keys since."""
        with self._work.locked():
            for block in self._work.blocks.all(namespace):
                if generations is None or block.slot.generation in generations:
                    self._work.blocks.remove(block, why)

    def _copied_out(self, block: Resident) -> Buffer:
        header, page = block.header, block.slot.tensor
        sealed = empty_block(header)
        for start, offset, nbytes in block.pieces:
            target = sealed[header.size + offset : header.size + offset + nbytes]
            self._work.memory.copy(page[start : start + nbytes], torch.from_numpy(target))
        return sealed

    def _verified(self, block: Resident, deadline: Deadline) -> bool:
        if not self.verify:
            return True
        table = block.header.table
        sums = self._work.attempt(partial(self._work.sums, block.slot.tensor, table["raw_bytes"].tolist()), deadline)
        if sums is None or sums == table["raw_checksum"].tolist():
            return sums is not None
        with self._work.locked() as gone:
            if not block.gone:
                gone.append(self._work.blocks.remove(block, "corrupt"))
        return False

    def _page(self, block: Resident) -> Page:
        slot = block.slot
        self._work.blocks.hold(block)
        page = Page(slot.tensor, block.header, slot.generation, slot.slab.words, slot.offset, self._release)
        self._held[page] = block
        return page

    def _release(self, page: Page) -> None:
        with self._work.lock:
            block = self._held.pop(page, None)
            if block is not None:
                with suppress(*DEVICE_ERRORS):
                    self._work.memory.fence()
                self._work.blocks.leave(block)

    def _end_export(self, export: Export) -> None:
        with self._work.lock:
            slabs = self._exports.pop(export, None)
            if slabs is not None:
                for slab in slabs:
                    slab.exports -= 1
                for handle in export.handles:
                    handle.close()
