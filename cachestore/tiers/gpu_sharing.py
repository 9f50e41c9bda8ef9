"""Pages in other processes of this node, without a copy.

1. The owner of the device exports the slabs of one namespace, never more: a handle opens a whole slab, and a slab has
   one namespace for all its life. While an export is open its slabs stay.
2. Handles are plain bytes and descriptors; the store of the node passes them on to its clients of that namespace
   (`cachestore.service.pages`). Nothing is unpickled.
3. The peer attaches each slab once, and finds pages in it by the owner's catalogue. It holds nothing there: it copies,
   waits for its device, and calls `Page.check`, which tells whether the page still was what the catalogue said.
4. Reading only is enforced for memory of the host; for a CUDA device it is an agreement: workers of one namespace
   trust each other.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from torch import Tensor

from cachestore.errors import Mismatch, Unavailable
from cachestore.seal import CorruptBlock, Header
from cachestore.tiers.gpu_blocks import page_bytes
from cachestore.tiers.gpu_memory import DEVICE_ERRORS, GRANULE, DeviceMemory, memory_named
from cachestore.tiers.gpu_pages import Page, PageSlot, Slab
from cachestore.tiers.gpu_words import UNIT, Words, check_memory, map_words


class Registered(NamedTuple):
    """Where a block's page lies, for an index that is not in this process; `header` is the packed raw form."""

    key: bytes
    slab: int
    offset: int
    generation: int
    header: bytes

    @classmethod
    def of(cls, header: Header, slot: PageSlot) -> Self:
        """The entry of a block with this header in this page."""
        return cls(header.key, slot.slab.number, slot.offset, slot.generation, header.packed)


@dataclass(frozen=True)
class SlabHandle:
    """What another process opens a slab with. The descriptors are the holder's: `attach` or `close` gives them up.

    `device` is the device's name, the same in all processes; `token` what its driver opens it with; `memory` a
    descriptor of the memory itself (-1: none), `words` one of the generations.
    """

    namespace: bytes
    number: int
    nbytes: int
    device: str
    token: bytes
    memory: int
    words: int

    def close(self) -> None:
        """Gives up the descriptors."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Those there are, in the order in which they travel."""
        return tuple(descriptor for descriptor in (self.words, self.memory) if descriptor >= 0)


@dataclass(eq=False)
class Export:
    """The slabs of one namespace as they are now; ones that come later are in the next export. Thread-safe."""

    handles: Sequence[SlabHandle]
    on_close: "Callable[[Export], None]"

    def close(self) -> None:
        """The peer is gone: these slabs may be given up again. Closing twice is allowed."""
        self.on_close(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def handles_of(slabs: Sequence[Slab], device: str) -> list[SlabHandle]:
    """Handles with descriptors of their own; Unavailable if this process may open no more."""
    handles: list[SlabHandle] = []
    try:
        for slab in slabs:
            memory = slab.allocation.descriptor
            words = os.dup(slab.words_descriptor)
            handle = SlabHandle(slab.namespace, slab.number, slab.nbytes, device, slab.allocation.token, -1, words)
            handles.append(handle)
            if memory >= 0:
                handles[-1] = replace(handle, memory=os.dup(memory))
        return handles
    except OSError as error:
        for handle in handles:
            handle.close()
        raise Unavailable(f"slabs cannot be shared now: {error.strerror}") from error


@dataclass(eq=False)
class AttachedSlab:
    """Another process's slab: `tensor` is uint8 [nbytes] on its device. It is given up with the last view of it."""

    namespace: bytes
    number: int
    tensor: Tensor
    words: Words = field(repr=False)

    def page(self, registered: Registered) -> Page:
        """The page of a block, as the catalogue says; CorruptBlock if that cannot be so, or is no more."""
        header = Header.parse(registered.header)
        header.check_identity(self.namespace, registered.key, header.fingerprint)
        first, last = registered.offset, registered.offset + page_bytes(header)
        if registered.slab != self.number or first % UNIT or not 0 <= first < last <= self.tensor.nbytes:
            raise CorruptBlock("header")
        page = Page(self.tensor[first:last], header, registered.generation, self.words, first, _nothing)
        page.check()
        return page


def attach(handle: SlabHandle, memory: DeviceMemory | None = None) -> AttachedSlab:
    """Opens a slab in this process and gives up the handle; `memory` is the device's, found by its name if not given.

    Mismatch if its device is not here, or it is no slab; Unavailable if this process cannot map it now.
    """
    try:
        if not 0 < handle.nbytes or handle.nbytes % GRANULE:
            raise Mismatch(f"a slab has a multiple of {GRANULE} bytes, got {handle.nbytes}")
        words = map_words(handle.words, handle.nbytes)
        if handle.memory >= 0:
            check_memory(handle.memory, handle.nbytes)
        memory = memory or memory_named(handle.device)
        tensor = memory.attach(handle.nbytes, handle.token, handle.memory)
        return AttachedSlab(handle.namespace, handle.number, tensor, words)
    except DEVICE_ERRORS as error:
        raise Unavailable(f"the slab cannot be opened: {error}") from error
    finally:
        handle.close()


def _nothing(page: Page) -> None:
    """What releasing a page means that is not held."""
