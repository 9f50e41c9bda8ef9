"""The server's side of a put: one stream that reserves, then brings pieces of planes and commits in any order.

Planes that come whole are copied from their message into the slot of their block, all that follow each other at once;
one that comes in several pieces is put together first, in memory that counts against the bytes in flight, and against
its writer's share of them, from its first piece on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.codecs.base import RAW
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.service import carried, convert, convert_put
from cachestore.service.auth.identity import Identity
from cachestore.service.auth.shares import SharedBudget
from cachestore.service.stream.frames import PlaneFrame
from cachestore.store.base import BlockPlan, PutStatus
from cachestore.store.local import LocalStore
from cachestore.store.put import LocalPut
from cachestore.wire import store_pb2 as wire


def write(
    store: LocalStore,
    requests: Iterator[wire.WriteRequest | PlaneFrame],
    bytes_in_flight: SharedBudget,
    caller: Identity,
    deadline: Deadline,
    offer: Callable[[LocalPut], wire.BulkOffer | None],
) -> Iterator[wire.WriteResponse]:
    """The answers to one Write. However the stream ends, what is not committed is given up.

    `offer` is asked, for a caller who would take it, whether planes may come over the bulk path.
    """
    first = next(requests, None)
    if not isinstance(first, wire.WriteRequest) or first.WhichOneof("message") != "reserve":
        raise InvalidArgument("the first message of Write must be `reserve`")
    put = reserved(store, first.reserve, deadline)
    wanted = {answer.block for answer in put.answers if answer.status is PutStatus.WANTED}
    pieces = _Pieces(put, put.plans, wanted, bytes_in_flight, caller)
    try:
        with put:
            bulk = offer(put) if first.reserve.bulk and wanted else None
            answer = convert_put.reserved_message(put.id, put.answers, first.reserve)
            answer.runs = True
            if bulk is not None:
                answer.bulk.CopyFrom(bulk)
            yield answer
            for request in requests:
                deadline.check("writing")
                if isinstance(request, PlaneFrame):
                    pieces.take(request.head, request.data)
                elif request.WhichOneof("message") == "commit":
                    answer = committed(put, request.commit, "stream")
                    wanted.difference_update(request.commit.blocks)
                    yield answer
                else:
                    raise InvalidArgument("every message of Write behind the first must be `frame` or `commit`")
    finally:
        pieces.drop()


def reserved(store: LocalStore, message: wire.Reserve, deadline: Deadline, owner: bytes = b"") -> LocalPut:
    """The put that a Reserve asks for, by whichever way its planes will travel; an `owner` writes from outside."""
    asked = convert_put.reservation(message)
    return store.put(
        asked.fingerprint,
        asked.plans,
        after=asked.after,
        durability=asked.durability,
        ttl=asked.ttl,
        groups=asked.groups,
        timeout=deadline.remaining(),
        owner=owner,
    )


def committed(put: LocalPut, message: wire.Commit, transport: str) -> wire.WriteResponse:
    """Publishes the blocks that a Commit names, whose planes came by this transport; what became of them."""
    blocks, ttl = convert_put.commit(message, len(put.plans))
    lease = carried.commit(put, blocks, ttl, transport)
    answers = put.answers
    messages = convert_put.answer_messages(answers[index] for index in blocks)
    return wire.WriteResponse(put=put.id, answers=messages, lease=convert.lease_message(lease) if lease else None)


PARTIAL = 1024
"""Bytes that a plane of which there are pieces counts for beside its own: what is known of it takes memory too."""

_ROW = np.dtype([("codec", "<u8"), ("stored_bytes", "<u8")])


@dataclass
class _Partial:
    encoding: wire.Encoding
    stored: Buffer
    filled: int = 0

    @property
    def holds(self) -> int:
        """Bytes that count for it."""
        return self.stored.nbytes + PARTIAL


@dataclass
class _Pieces:
    """Planes on their way into one put."""

    put: LocalPut
    plans: Sequence[BlockPlan]
    wanted: set[int]
    bytes_in_flight: SharedBudget
    caller: Identity
    _open: dict[tuple[int, int], _Partial] = field(default_factory=dict)

    def take(self, frame: wire.PlaneFrame, data: Buffer) -> None:
        """Takes the segments or the run of one frame; InvalidArgument unless they are exactly its `data`."""
        if frame.block >= len(self.plans):
            raise InvalidArgument(f"frame.block = {frame.block} is none of the {len(self.plans)} blocks of this put")
        if frame.HasField("run"):
            return self._run(frame, data)
        block, at = frame.block, 0
        planes, have = self.plans[block].planes, data.nbytes
        # whole planes that follow each other: the first, where its bytes begin, and how they are encoded
        first, start, run = 0, 0, list[wire.Encoding]()
        for segment in frame.segments:
            plane, offset, length, encoding = segment.plane, segment.offset, segment.length, segment.encoding
            size, end = encoding.stored_bytes, at + length
            if end > have:
                raise InvalidArgument(f"frame.data ends within a segment of {length} bytes")
            if plane >= len(planes) or not 1 <= length <= size - offset or size > planes[plane].raw_bytes:
                raise self._wrong(block, segment)
            if run and plane != first + len(run):
                self._land(block, first, run, data[start:at])
                run = []
            if length != size:
                self._piece(block, segment, data[at:end])
            elif run:
                run.append(encoding)
            else:
                first, start, run = plane, at, [encoding]
            at = end
        if at != data.nbytes:
            raise InvalidArgument(f"frame.data has {data.nbytes - at} bytes behind its last segment")
        if run:
            self._land(block, first, run, data[start:at])

    def _run(self, frame: wire.PlaneFrame, data: Buffer) -> None:
        first, checksums = frame.run.plane, np.array(frame.run.checksums, dtype="<u8")
        planes = self.plans[frame.block].planes[first : first + checksums.size]
        if frame.segments or not planes or len(planes) != checksums.size:
            raise InvalidArgument(
                f"run of block {frame.block}: {checksums.size} checksums from plane {first} on; send one for each of "
                f"the {len(self.plans[frame.block].planes)} planes or less, without segments"
            )
        size = sum(plane.raw_bytes for plane in planes)
        if data.nbytes != size:
            raise InvalidArgument(f"run of block {frame.block}: its planes have {size} bytes, got {data.nbytes}")
        if frame.block in self.wanted:
            self._lay(frame.block, range(first, first + len(planes)), None, checksums, checksums, data)

    def drop(self) -> None:
        """Gives up what is not whole."""
        while self._open:
            self.bytes_in_flight.give_back(self.caller, self._open.popitem()[1].holds)

    def _wrong(self, block: int, segment: wire.PlaneFrame.Segment) -> InvalidArgument:
        planes, size = self.plans[block].planes, segment.encoding.stored_bytes
        at = f"segment of block {block}, plane {segment.plane}"
        if segment.plane >= len(planes):
            return InvalidArgument(f"{at}: the block has {len(planes)} planes")
        if not 1 <= size <= planes[segment.plane].raw_bytes:
            return InvalidArgument(f"{at}: encoding.stored_bytes = {size} must lie in 1 .. the plane's raw bytes")
        return InvalidArgument(f"{at}: {segment.length} bytes at {segment.offset} must be a piece of {size} bytes")

    def _piece(self, block: int, segment: wire.PlaneFrame.Segment, data: Buffer) -> None:
        if block not in self.wanted:
            return
        name, size = (block, segment.plane), segment.encoding.stored_bytes
        partial = self._open.get(name)
        if partial is None:
            self.bytes_in_flight.take(self.caller, size + PARTIAL)
            # a copy: to keep the message's own would keep all of the message
            encoding = wire.Encoding()
            encoding.CopyFrom(segment.encoding)
            partial = self._open[name] = _Partial(encoding, np.empty(size, dtype=np.uint8))
        if partial.encoding != segment.encoding or partial.filled != segment.offset:
            raise InvalidArgument(
                f"segment of block {block}, plane {segment.plane}: pieces of a plane must come in order and agree on "
                "its encoding"
            )
        np.copyto(partial.stored[segment.offset : segment.offset + data.nbytes], data)
        partial.filled += data.nbytes
        if partial.filled == size:
            self._land(block, segment.plane, [partial.encoding], partial.stored)
            del self._open[name]
            self.bytes_in_flight.give_back(self.caller, partial.holds)

    def _land(self, block: int, first: int, encodings: Sequence[wire.Encoding], data: Buffer) -> None:
        """Lays planes that are whole, their stored bytes one behind the other in `data`."""
        if block not in self.wanted:
            return
        planes, ids = range(first, first + len(encodings)), self.plans[block].planes
        rows = [(encoding.codec, encoding.stored_bytes) for encoding in encodings]
        as_they_are = rows == [(RAW, ids[plane].raw_bytes) for plane in planes]
        self._lay(
            block,
            planes,
            None if as_they_are else np.array(rows, dtype=_ROW),
            np.array([encoding.stored_checksum for encoding in encodings], dtype="<u8"),
            np.array([encoding.raw_checksum for encoding in encodings], dtype="<u8"),
            data,
        )

    def _lay(
        self,
        block: int,
        planes: range,
        rows: NDArray[np.void] | None,
        stored: NDArray[np.uint64],
        raw: NDArray[np.uint64],
        data: Buffer,
    ) -> None:
        at = 0

        def take(memory: Buffer) -> None:
            nonlocal at
            np.copyto(memory, data[at : at + memory.nbytes])
            at += memory.nbytes

        with self.put.arriving(block, planes, rows) as arrival:
            arrival.fill(take)
            arrival.told(stored, raw)
