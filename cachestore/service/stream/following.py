"""The client's side of a provisional read: planes as they come on its stream, before it is granted."""

import os
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.deadline import Deadline
from cachestore.errors import DeadlineExceeded, InvalidArgument, Mismatch, Unavailable
from cachestore.plane_table import Stored
from cachestore.seal import CorruptBlock
from cachestore.service import convert
from cachestore.service.connection import Connection
from cachestore.service.convert_put import layout
from cachestore.service.stream.frames import PlaneFrame
from cachestore.service.stream.source import RESUME_PAUSE, RESUMES, StreamSource
from cachestore.service.transport import Asked
from cachestore.store.base import Provisional
from cachestore.store.leases import ID_BYTES
from cachestore.store.received import Received
from cachestore.wire import store_pb2 as wire


class StreamFollowing:
    """Follows `cachestore.service.transport.Followed`. A connection that breaks is taken up again, from the start."""

    def __init__(
        self, connection: Connection, asked: Asked, into: Sequence[Buffer] | None, wait: float, deadline: Deadline
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._into = into
        self._until = Deadline(time.monotonic() + wait)
        self._deadline = deadline
        self._call: Any = None
        self._resumes_left = RESUMES
        self._layout: tuple[PlaneId, ...] = ()
        self._received: dict[int, Received] = {}
        self._here: set[int] = set()
        """The blocks that began on the call there is; the others are from one that broke."""
        self._partial: tuple[tuple[int, int], Buffer, int] | None = None
        """A plane that comes in pieces: its block and number, the memory for them, and how much of it is filled."""
        self.source: StreamSource | None = None
        self.lease = b""

    def planes(self) -> Generator[Provisional, None, None]:
        """The planes as they come; `source` has the blocks behind the last of them, unless the time was over first."""
        while self.source is None:
            try:
                yield from self._answers(self._asked.request)
                return
            except DeadlineExceeded:
                return
            except Unavailable:
                if not self._resumes_left:
                    raise
                self._resumes_left -= 1
                time.sleep(min(RESUME_PAUSE, self._deadline.remaining()))
                self._asked.request.wait_ms = convert.milliseconds(self._until.remaining(), "wait")

    def close(self) -> None:
        """Ends it; the source, if there is one, is closed by its owner."""
        self._resumes_left = 0
        if self._call is not None and self.source is None:
            self._call.cancel()

    def _answers(self, request: wire.ReadRequest) -> Iterator[Provisional]:
        self._here.clear()
        self._layout, self._partial = (), None
        # another each time: the call that broke may have got its own
        self.lease = request.new_lease = os.urandom(ID_BYTES)
        with self._connection.errors("Read"):
            self._call = self._connection.read(request, timeout=max(self._deadline.remaining(), 1e-3))
        while True:
            with self._connection.errors("Read"):
                message = next(self._call, None)
            if isinstance(message, PlaneFrame):
                yield from self._planes(message)
            elif isinstance(message, wire.ReadResponse) and message.HasField("began"):
                self._began(message.began)
            elif isinstance(message, wire.ReadResponse) and message.HasField("published"):
                if message.published.aborted:
                    self._received.pop(message.published.block, None)
            elif isinstance(message, wire.ReadResponse) and message.HasField("granted"):
                self.source = StreamSource(self._connection, self._asked, self._deadline, self._received)
                self.source.go_on(self._call, message.granted)
                return
            else:
                raise self._wrong("an answer that is none of a provisional read")

    def _began(self, began: wire.Began) -> None:
        if began.HasField("layout"):
            try:
                self._layout = layout(began.layout, "began.layout")
            except InvalidArgument as error:
                raise self._wrong(str(error)) from error
        if began.block >= len(self._asked.chain) or not self._layout:
            raise self._wrong(f"a block {began.block} that was not asked for, or without its layout")
        known = self._received.get(began.block)
        # what came on a call that broke need not come again, if it is the same
        again = began.block not in self._here and known is not None and known.layout == self._layout
        self._here.add(began.block)
        if not again:
            into = None if self._into is None else self._into[began.block]
            self._received[began.block] = Received(self._layout, self._asked.part, into)

    def _planes(self, frame: PlaneFrame) -> Iterator[Provisional]:
        number, at = frame.head.block, 0
        received = self._received.get(number) if number in self._here else None
        for segment in frame.head.segments:
            data = frame.data[at : at + segment.length]
            at += segment.length
            if received is None or segment.plane not in received.planes or not 0 < segment.length == data.nbytes:
                raise self._wrong(f"a plane {segment.plane} of block {number} that was not to come")
            stored = self._stored(number, received.planes[segment.plane], segment, data)
            taken = self._taken(received, segment, stored) if stored is not None else None
            if taken is not None:
                yield Provisional(number, segment.plane, received.planes[segment.plane], taken)

    def _stored(self, number: int, plane: PlaneId, segment: wire.PlaneFrame.Segment, data: Buffer) -> Buffer | None:
        """All stored bytes of a plane, once they are there."""
        size, name = segment.encoding.stored_bytes, (number, segment.plane)
        if segment.offset == 0 and data.nbytes == size:
            return data
        if segment.offset == 0 and size <= plane.raw_bytes:
            self._partial = name, np.empty(size, dtype=np.uint8), 0
        if self._partial is None:
            raise self._wrong(f"a piece of plane {segment.plane} of block {number} without its beginning")
        begun, memory, filled = self._partial
        end = filled + data.nbytes
        if (begun, filled, size) != (name, segment.offset, memory.nbytes) or end > size:
            raise self._wrong(f"pieces of plane {segment.plane} of block {number} that do not fit together")
        np.copyto(memory[filled:end], data)
        self._partial = (name, memory, end) if end < size else None
        return memory if end == size else None

    def _taken(self, received: Received, segment: wire.PlaneFrame.Segment, stored: Buffer) -> Buffer | None:
        """A plane that is new and holds; one that does not is left to what is published."""
        number, encoding = segment.plane, segment.encoding
        if received.sums.get(number) == encoding.raw_checksum:
            return None
        row = Stored(encoding.codec, 0, stored.nbytes, encoding.stored_checksum, encoding.raw_checksum)
        try:
            return received.take(number, row, stored)
        except CorruptBlock:
            return None

    def _wrong(self, what: str) -> Mismatch:
        self._call.cancel()
        return Mismatch(f"the store at {self._connection.address} sent {what}")
