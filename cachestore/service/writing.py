"""The server's side of a put: one stream that reserves, then brings pieces of planes and commits in any order.

A plane that comes in one piece goes to the store as it is; one that comes in several is put together first, in memory
that counts against the bytes in flight.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.base import Encoded
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.service import convert, convert_put
from cachestore.service.budget import Budget
from cachestore.service.frames import PlaneFrame
from cachestore.store.base import BlockPlan, PutStatus
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
from cachestore.wire import store_pb2 as wire


def write(
    store: LocalStore, requests: Iterator[wire.WriteRequest | PlaneFrame], bytes_in_flight: Budget, deadline: Deadline
) -> Iterator[wire.WriteResponse]:
    """The answers to one Write. However the stream ends, what is not committed is given up."""
    first = next(requests, None)
    if not isinstance(first, wire.WriteRequest) or first.WhichOneof("message") != "reserve":
        raise InvalidArgument("the first message of Write must be `reserve`")
    asked = convert_put.reservation(first.reserve)
    put = store.put(
        asked.fingerprint,
        asked.plans,
        after=asked.after,
        durability=asked.durability,
        ttl=asked.ttl,
        timeout=deadline.remaining(),
    )
    wanted = frozenset(answer.block for answer in put.answers if answer.status is PutStatus.WANTED)
    pieces = _Pieces(put, asked.plans, wanted, bytes_in_flight)
    try:
        with put:
            yield wire.WriteResponse(put=put.id, answers=convert_put.answer_messages(put.answers))
            for request in requests:
                deadline.check("writing")
                if isinstance(request, PlaneFrame):
                    pieces.take(request.head, request.data)
                elif request.WhichOneof("message") == "commit":
                    yield _committed(put, request.commit)
                else:
                    raise InvalidArgument("every message of Write behind the first must be `frame` or `commit`")
    finally:
        pieces.drop()


def _committed(put: LocalPut, message: wire.Commit) -> wire.WriteResponse:
    blocks, ttl = convert_put.commit(message, len(put.plans))
    lease = put.commit(blocks, lease=ttl)
    answers = put.answers
    messages = convert_put.answer_messages(answers[index] for index in blocks)
    return wire.WriteResponse(put=put.id, answers=messages, lease=convert.lease_message(lease) if lease else None)


@dataclass
class _Partial:
    encoding: wire.Encoding
    stored: Buffer
    filled: int = 0


@dataclass
class _Pieces:
    """Planes on their way into one put."""

    put: LocalPut
    plans: tuple[BlockPlan, ...]
    wanted: frozenset[int]
    bytes_in_flight: Budget
    _open: dict[tuple[int, int], _Partial] = field(default_factory=dict)

    def take(self, frame: wire.PlaneFrame, data: Buffer) -> None:
        """Takes the segments of one frame; InvalidArgument unless they are exactly its `data`."""
        if frame.block >= len(self.plans):
            raise InvalidArgument(f"frame.block = {frame.block} is none of the {len(self.plans)} blocks of this put")
        at = 0
        for segment in frame.segments:
            if segment.length > data.nbytes - at:
                raise InvalidArgument(f"frame.data ends within a segment of {segment.length} bytes")
            self._segment(frame.block, segment, data[at : at + segment.length])
            at += segment.length
        if at != data.nbytes:
            raise InvalidArgument(f"frame.data has {data.nbytes - at} bytes behind its last segment")

    def drop(self) -> None:
        """Gives up what is not whole."""
        while self._open:
            self.bytes_in_flight.give_back(self._open.popitem()[1].stored.nbytes)

    def _segment(self, block: int, segment: wire.PlaneFrame.Segment, data: Buffer) -> None:
        plan = self.plans[block]
        at = f"segment of block {block}, plane {segment.plane}"
        if segment.plane >= len(plan.planes):
            raise InvalidArgument(f"{at}: the block has {len(plan.planes)} planes")
        size = segment.encoding.stored_bytes
        if not 1 <= size <= plan.planes[segment.plane].raw_bytes:
            raise InvalidArgument(f"{at}: encoding.stored_bytes = {size} must lie in 1 .. the plane's raw bytes")
        if segment.offset > size or data.nbytes > size - segment.offset or not data.nbytes:
            raise InvalidArgument(f"{at}: {data.nbytes} bytes at {segment.offset} must be a piece of {size} bytes")
        if block not in self.wanted:
            return
        name = (block, segment.plane)
        if data.nbytes == size and name not in self._open:
            self._whole(name, segment.encoding, data)
            return
        partial = self._open.get(name)
        if partial is None:
            self.bytes_in_flight.take(size)
            partial = self._open[name] = _Partial(segment.encoding, np.empty(size, dtype=np.uint8))
        if partial.encoding != segment.encoding or partial.filled != segment.offset:
            raise InvalidArgument(f"{at}: pieces of a plane must come in order and agree on its encoding")
        np.copyto(partial.stored[segment.offset : segment.offset + data.nbytes], data)
        partial.filled += data.nbytes
        if partial.filled == size:
            self._whole(name, partial.encoding, partial.stored)
            del self._open[name]
            self.bytes_in_flight.give_back(size)

    def _whole(self, name: tuple[int, int], encoding: wire.Encoding, stored: Buffer) -> None:
        block, plane = name
        raw_bytes = self.plans[block].planes[plane].raw_bytes
        encoded = Encoded(encoding.codec, stored, raw_bytes, encoding.stored_checksum, encoding.raw_checksum)
        self.put.write_encoded(block, plane, encoded)
