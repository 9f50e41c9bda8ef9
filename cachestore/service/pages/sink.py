"""Where the planes of one put go besides: pages of the writer's own tier, visible as soon as they are whole."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from threading import Lock

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Codec, Encoded
from cachestore.codecs.planes import decode_plane, encode_plane
from cachestore.deadline import Deadline
from cachestore.plane_table import Stored
from cachestore.seal import PARENT_BYTES, CorruptBlock
from cachestore.service import convert_put
from cachestore.service.convert_put import Reservation
from cachestore.service.transport import Sink
from cachestore.store.base import PutAnswer, PutStatus
from cachestore.tiers.gpu_blocks import DeviceBlock
from cachestore.tiers.gpu_filling import Filling
from cachestore.tiers.gpu_tier import GpuTier
from cachestore.wire import store_pb2 as wire

log = logging.getLogger(__name__)

STAYS = PutStatus.STORED, PutStatus.NOT_KEPT
"""What may become of a block whose page stays: where the store has no room, the page is all that there is."""


@dataclass(eq=False)
class _Page:
    filling: Filling
    starts: Sequence[int]
    left: int


@dataclass(eq=False)
class PageSink:
    """Follows `cachestore.service.transport.Sink`; `sink` is where the planes go in any case, and what it says counts.

    A page is taken with a block's first plane, and holds what readers of the store would decode: so planes that a lossy
    `codec` rounds are coded here. It is visible, and `register` is called, right before the store hears of the commit,
    so that a reader who waits for the block finds it there. Blocks that the store then refuses leave the tier. What the
    tier does not do costs nothing but the page.
    """

    sink: Sink
    reservation: Reservation
    tier: GpuTier
    namespace: bytes
    register: Callable[[Deadline], object]
    codec: Codec
    deadline: Deadline
    _pages: dict[int, _Page | None] = field(default_factory=dict)
    _starts: dict[int, Sequence[int]] = field(default_factory=dict)
    _over: bool = False
    _lock: Lock = field(default_factory=Lock)
    """Whoever aborts must not take a page back that is being written to."""

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return self.sink.answers

    def write(self, block: int, planes: range, data: Buffer) -> None:
        if self.codec.lossy:
            ids = self.reservation.plans[block].planes[planes.start : planes.stop]
            ends = [0, *accumulate(plane.raw_bytes for plane in ids)]
            pieces = zip(ids, pairwise(ends), strict=True)
            coded = [encode_plane(self.codec, data[start:end], plane) for plane, (start, end) in pieces]
            self.write_encoded(block, planes.start, coded)
            return
        self.sink.write(block, planes, data)
        self._fill(block, planes.start, data)

    def write_encoded(self, block: int, plane: int, encoded: Sequence[Encoded]) -> None:
        self.sink.write_encoded(block, plane, encoded)
        ids = self.reservation.plans[block].planes
        for number, each in enumerate(encoded, plane):
            self._fill(block, number, _decoded(each, ids[number]))

    def commit(self, blocks: Sequence[int], lease_ms: int) -> wire.WriteResponse:
        with self._lock:
            published = {block: page for block in blocks if (page := self._published(block)) is not None}
        stay: set[int] = set()
        try:
            if published:
                self.register(self.deadline)
            answer = self.sink.commit(blocks, lease_ms)
            stay = {one.block for one in convert_put.answers(answer.answers) if one.status in STAYS}
            return answer
        finally:
            refused = {page for block, page in published.items() if block not in stay}
            if refused:
                self.tier.drop(self.namespace, refused, "withdrawn")

    def abort(self) -> None:
        try:
            self.sink.abort()
        finally:
            with self._lock:
                self._over = True
                for page in self._pages.values():
                    if page is not None:
                        page.filling.close()
                self._pages.clear()

    def _fill(self, block: int, plane: int, data: Buffer | None) -> None:
        """Raw planes into the page, from `plane` on; None, or what the tier does not do, costs the page."""
        with self._lock:
            if self._over:
                return
            if block not in self._pages:
                self._pages[block] = self._begun(block)
            page = self._pages[block]
            if page is None:
                return
            if data is not None and page.filling.write(page.starts[plane], data, self.deadline):
                page.left -= data.nbytes
            else:
                page.filling.close()
                self._pages[block] = None

    def _begun(self, block: int) -> _Page | None:
        plan = self.reservation.plans[block]
        filling = self.tier.open_page(self.namespace, plan.key, plan.raw_bytes, self.deadline)
        if filling is None:
            return None
        # by identity: the blocks of a put share their planes
        starts = self._starts.get(id(plan.planes))
        if starts is None:
            ends = accumulate(plane.raw_bytes for plane in plan.planes)
            starts = self._starts[id(plan.planes)] = [0, *ends]
        return _Page(filling, starts, plan.raw_bytes)

    def _published(self, block: int) -> int | None:
        """Makes the block visible if all of it is in its page: the page's generation."""
        page, self._pages[block] = self._pages.get(block), None
        if page is None:
            return None
        try:
            seal = self.tier.seal(self.namespace, self.reservation.fingerprint)
            whole = not page.left and page.filling.publish(self._described(block, page.filling), seal, self.deadline)
            return page.filling.generation if whole else None
        finally:
            page.filling.close()

    def _described(self, block: int, filling: Filling) -> DeviceBlock:
        plans, after, ttl = self.reservation.plans, self.reservation.after, self.reservation.ttl
        plan, before = plans[block], plans[block - 1].key if block else after or bytes(PARENT_BYTES)
        expires = round((time.time() + ttl) * 1000) if ttl is not None else 0
        return DeviceBlock(
            plan.key, plan.token_count, plan.planes, filling.slot.tensor, plan.short, before[:PARENT_BYTES], expires
        )


def _decoded(encoded: Encoded, plane: PlaneId) -> Buffer | None:
    """What readers get of a coded plane; None if it does not hold."""
    codec, stored, raw_bytes, stored_checksum, raw_checksum = encoded
    raw = np.empty(raw_bytes, dtype=np.uint8)
    try:
        decode_plane(plane, Stored(codec, 0, stored.nbytes, stored_checksum, raw_checksum), stored, raw)
    except CorruptBlock:
        return None
    return raw
