"""What the client of one session has to do with pages: those that it registers, and those that it is shown."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.service import carried, convert
from cachestore.service.shared.messages import MOST_DESCRIPTORS
from cachestore.store.local import LocalStore
from cachestore.store.owned_page import OfferedPage, OwnedPage, PageOwner
from cachestore.store.owned_slabs import OfferedSlab, ShownSlab
from cachestore.store.reading import SealedReading
from cachestore.wire import session_pb2 as wire

SHOWN_BYTES = 2 << 20
"""Bytes of headers in one answer, or one header more."""


@dataclass(eq=False)
class SessionPages:
    """`device` is the one whose memory the client can open, empty for none. One thread calls it."""

    store: LocalStore
    device: str
    _owner: PageOwner | None = None
    _descriptors: list[int] = field(default_factory=list)

    def leading(self, chain: Chain) -> list[OwnedPage]:
        """The pages of others at the front of a chain."""
        return self.store.tiered.pages.leading(self.store.namespace, chain, self.device, self._owner)

    def show(self, read: SealedReading) -> wire.PagePlaces:
        """Where the blocks of a read are, as far as they are in pages and there is room in an answer."""
        tiered, pages = self.store.tiered, list[OwnedPage]()
        for held in read.holding.blocks[read.first : read.count]:
            if held.page is None:
                break
            pages.append(held.page)
        slabs = tiered.pages.show(pages, MOST_DESCRIPTORS // 2)
        for slab in slabs:
            self._descriptors += slab.descriptors
        chosen = list(_that_fit(pages, {slab.number for slab in slabs}))
        carried.read(self.store, "pages", [page.nbytes for page in chosen])
        return wire.PagePlaces(
            slabs=map(_slab, slabs),
            pages=map(_page, chosen),
            more=len(chosen) < len(pages),
            alive=tiered.pages.alive(self.store.namespace, self.device),
        )

    def missed(self, message: wire.MissedPage, deadline: Deadline) -> wire.SessionAnswer:
        """A page was not what was said of it."""
        self.store.missed(convert.identifier(message.lease, "lease"), message.block, timeout=deadline.remaining())
        return wire.SessionAnswer(missed=wire.MissedPageAnswer())

    def register(self, message: wire.RegisterPages, descriptors: Sequence[int]) -> wire.SessionAnswer:
        """Takes what the client offers; the descriptors stay the caller's."""
        if not self.device:
            raise InvalidArgument("pages lie on a device: say which in hello.device")
        tiered, epoch = self.store.tiered, self._epoch()
        owner = self._owner
        if owner is None:
            if message.epoch not in (b"", epoch):
                return wire.SessionAnswer(registered=wire.RegisteredPages(epoch=epoch, all_removed=True))
            owner = self._owner = tiered.pages.begin(self.store.namespace, self.device)
        tiered.pages.withdraw(owner, message.withdrawn)
        slabs, pages = list(_offered(message.slabs, descriptors)), [_offered_page(page) for page in message.pages]
        tiered.pages.register(owner, slabs, pages)
        return wire.SessionAnswer(registered=wire.RegisteredPages(epoch=epoch, removed=tiered.pages.told(owner)))

    def descriptors(self) -> list[int]:
        """Those that go with the answer just made, which are the caller's."""
        descriptors, self._descriptors = self._descriptors, []
        return descriptors

    def close(self) -> None:
        """The client is gone, and its pages with it."""
        for descriptor in self.descriptors():
            os.close(descriptor)
        if self._owner is not None:
            self.store.tiered.pages.end(self._owner)

    def _epoch(self) -> bytes:
        tiered = self.store.tiered
        return tiered.incarnation + tiered.removals(self.store.namespace).to_bytes(8, "little")


def _that_fit(pages: Sequence[OwnedPage], slabs: set[int]) -> Iterator[OwnedPage]:
    left = SHOWN_BYTES
    for page in pages:
        if page.slab.number not in slabs or left <= 0:
            return
        left -= len(page.header)
        yield page


def _slab(slab: ShownSlab) -> wire.PageSlab:
    return wire.PageSlab(number=slab.number, bytes=slab.nbytes, token=slab.token, memory=len(slab.descriptors) == 2)


def _page(page: OwnedPage) -> wire.Page:
    return wire.Page(slab=page.slab.number, offset=page.offset, generation=page.generation, header=page.header)


def _offered_page(page: wire.Page) -> OfferedPage:
    return OfferedPage(page.slab, page.offset, page.generation, page.header)


def _offered(slabs: Sequence[wire.PageSlab], descriptors: Sequence[int]) -> Iterator[OfferedSlab]:
    wanted = sum(2 if slab.memory else 1 for slab in slabs)
    if wanted != len(descriptors):
        raise InvalidArgument(f"slabs: they want {wanted} descriptors, and {len(descriptors)} came")
    given = iter(descriptors)
    for slab in slabs:
        words = next(given)
        yield OfferedSlab(slab.number, slab.bytes, slab.token, words, next(given) if slab.memory else -1)
