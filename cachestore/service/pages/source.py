"""The blocks of one read, copied out of other workers' pages.

A page is nobody's promise: its owner may give the memory to another block at any moment. So a block is copied first;
then the page's generation is looked at again, and the copy's checksums are taken.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from cachestore.block import Block, Buffer, Views
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.codecs.planes import packing_of
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.seal import SHORT, CorruptBlock, Header
from cachestore.service.pages.on_device import OnDevice
from cachestore.service.pages.session import PageSession
from cachestore.service.shared.client import Lost
from cachestore.service.transport import Asked, Broken
from cachestore.store.base import Loaded
from cachestore.store.owned_pages import TIER
from cachestore.tiers.gpu_blocks import page_checksums
from cachestore.tiers.gpu_memory import DEVICE_ERRORS, DeviceMemory
from cachestore.tiers.gpu_pages import Page
from cachestore.tiers.gpu_sharing import Registered
from cachestore.wire import session_pb2, store_pb2

Ask = Callable[[session_pb2.SessionRequest, Deadline], session_pb2.SessionAnswer]
"""Asks the session of a read; raises what the store answers instead, and Lost if the session is over."""

log = logging.getLogger(__name__)


class PageSource:
    """Follows `cachestore.service.transport.Source`; `answer` is the store's to the read, from block `first` on.

    `failed` is told that pages cannot be opened, or that the device does not copy, `ended` that the session is needed
    no more.
    """

    def __init__(
        self,
        asked: Asked,
        session: PageSession,
        memory: DeviceMemory,
        ask: Ask,
        answer: session_pb2.SessionAnswer,
        asked_at: float,
        first: int,
        deadline: Deadline,
        *,
        verify: bool,
        failed: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        self._asked = asked
        self._session = session
        self._memory = memory
        self._ask = ask
        self._granted = answer.granted
        self._leased = sum(run.blocks for run in answer.granted.runs)
        # counted from when it was asked for: the store's own end is later
        self._ends = asked_at + answer.granted.lease_ms / 1000
        self._deadline = deadline
        self._verify = verify
        self._failed = failed
        self._ended = ended
        self._closed = False
        self._shown(answer.pages, first)

    @property
    def lease(self) -> bytes:
        return self._granted.lease

    def load(self, number: int, into: Buffer | None) -> Loaded | None:
        if number >= self._leased or not self._deadline.remaining():
            return None
        if number - self._first >= len(self._pages) and self._more:
            self._go_on(number)
        if number - self._first >= len(self._pages):
            raise Broken  # in no page: the store has it elsewhere
        try:
            block = self._copied(number, into)
        except CorruptBlock as corrupt:
            self._missed(number, corrupt.reason)
            raise Broken from None
        except DEVICE_ERRORS as error:
            self._failed(str(error))
            raise Broken from None
        if time.monotonic() >= self._ends:
            raise Broken  # unless somebody renewed the lease, which the store knows
        return Loaded(block, TIER)

    def close(self) -> None:
        """Gives the session back; the places are forgotten with the source."""
        if not self._closed:
            self._closed = True
            self._ended()

    def _shown(self, places: session_pb2.PagePlaces, first: int) -> None:
        self._first = first
        self._pages = places.pages
        self._more = places.more
        # for as long as this read lasts, whatever the session is told of meanwhile
        self._slabs = dict(self._session.slabs)
        if self._session.closed_to_us:
            self._failed(self._session.closed_to_us)

    def _go_on(self, number: int) -> None:
        chain, _, asked = self._asked
        request = store_pb2.ReadRequest(
            chain=asked.chain, part=asked.part, lease=self.lease, resume=store_pb2.Resume(key=chain.keys[number])
        )
        try:
            answer = self._ask(session_pb2.SessionRequest(read=request), self._deadline)
        except (CacheStoreError, Lost):
            raise Broken from None
        self._shown(answer.pages, number)

    def _missed(self, number: int, reason: str) -> None:
        log.debug("the page of block %d is not what it was: %s", number, reason)
        request = session_pb2.MissedPage(lease=self.lease, block=number)
        try:
            self._ask(session_pb2.SessionRequest(missed=request), self._deadline)
        except (CacheStoreError, Lost):
            return  # whoever reads it next finds out

    def _copied(self, number: int, into: Buffer | None) -> Block:
        page = self._page(number)
        packing = packing_of(page.header.places, self._asked.part)
        target = self._target(page, packing.nbytes, into)
        at = 0
        for start, end in _pieces(page.header, packing.chosen):
            self._memory.copy(page.tensor[start:end], target[at : at + end - start])
            at += end - start
        page.check()
        if self._verify or into is not None:
            self._check(target, page.header, packing.chosen)
        data = OnDevice(target, packing.packed) if into is None else Views(into, packing.packed)
        header = page.header
        return Block(header.key, header.token_count, packing.planes, data, bool(header.flags & SHORT))

    def _target(self, page: Page, nbytes: int, into: Buffer | None) -> Tensor:
        """Where the planes go: `into`, or where its owner has it on the page's device."""
        if into is None:
            return torch.empty(nbytes, dtype=torch.uint8, device=self._memory.device)
        if into.nbytes != nbytes:
            raise Broken  # other copies have the same planes: what that means is for them to say
        there = into.page(page.tensor.device) if isinstance(into, DecodingBuffer) else None
        return torch.from_numpy(into) if there is None else there

    def _page(self, number: int) -> Page:
        place, chain = self._pages[number - self._first], self._asked.chain
        slab = self._slabs.get(place.slab)
        if slab is None:
            raise Broken
        page = slab.page(Registered(chain.keys[number], place.slab, place.offset, place.generation, place.header))
        page.header.check_identity(slab.namespace, chain.keys[number], chain.fingerprint)
        return page

    def _check(self, target: Tensor, header: Header, chosen: Sequence[int]) -> None:
        sizes = header.rows(chosen)["raw_bytes"].tolist()
        with self._memory.aside():
            sums = page_checksums(target, sizes)
        if sums != header.raw_checksums(chosen):
            raise CorruptBlock("checksum")


def _pieces(header: Header, chosen: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where in a page the planes at the indices `chosen` lie: start and end of what is in one piece."""
    ends = list(accumulate(header.table["raw_bytes"].tolist(), initial=0))
    begun = None
    for position, index in enumerate(chosen):
        begun = index if begun is None else begun
        if position + 1 == len(chosen) or chosen[position + 1] != index + 1:
            yield ends[begun], ends[index + 1]
            begun = None
