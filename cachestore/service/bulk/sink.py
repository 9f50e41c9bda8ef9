"""The client's side of a put over the bulk path: planes go from where their writer has them onto the connection."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from threading import Lock

import numpy as np

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import RAW as RAW_CODEC
from cachestore.codecs.base import Codec, Encoded
from cachestore.codecs.planes import encode_plane, slices, starts
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.seal import checksums
from cachestore.service.bulk.answers import answered
from cachestore.service.bulk.format import CODED, COMMIT, DONE, FRAME, RAW, ROW, SUM
from cachestore.service.bulk.line import Line
from cachestore.service.bulk.lines import Lines, Reserved
from cachestore.service.convert_put import Reservation
from cachestore.service.stream.sink import StreamSink
from cachestore.store.base import PutAnswer
from cachestore.wire import store_pb2 as wire


class BulkSink:
    """One put whose planes and commits go over a line; follows `transport.Sink`.

    If it was reserved over a `stream`, the put is open for as long as that is; else for as long as the line holds.
    """

    def __init__(
        self,
        lines: Lines,
        reserved: Reserved,
        codec: Codec,
        reservation: Reservation,
        deadline: Deadline,
        stream: StreamSink | None = None,
    ) -> None:
        self._lines = lines
        self._address = reserved.address
        self._line: Line | None = reserved.line
        self._answers = reserved.answers
        self._codec = codec
        self._plans = reservation.own_plans()
        self._deadline = deadline
        self._stream = stream
        self._places: dict[tuple[int, range], Sequence[slice]] = {}
        # an abort by another thread must not close the connection under a write
        self._using = Lock()

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return self._answers

    def write(self, block: int, planes: range, data: Buffer) -> None:
        ids = self._plans[block].planes
        if self._codec.id == RAW_CODEC:
            self._write_raw(block, planes, data, self._places_of(ids, planes))
            return
        pairs = zip(self._places_of(ids, planes), ids[planes.start : planes.stop], strict=True)
        encoded = [encode_plane(self._codec, data[place], plane) for place, plane in pairs]
        self.write_encoded(block, planes.start, encoded)

    def write_encoded(self, block: int, plane: int, encoded: Sequence[Encoded]) -> None:
        rows = np.empty(len(encoded), dtype=ROW)
        rows["codec"] = [each.codec for each in encoded]
        rows["stored_bytes"] = [each.stored.nbytes for each in encoded]
        sums = [each.stored_checksum for each in encoded] + [each.raw_checksum for each in encoded]
        with self._sending() as line:
            head = FRAME.pack(CODED, block, plane, len(encoded)) + rows.tobytes()
            line.send(head, self._deadline, more=True)
            for each in encoded:
                line.send(each.stored, self._deadline, more=True)
            line.send(np.array(sums, dtype=SUM).tobytes(), self._deadline)

    def commit(self, blocks: Sequence[int], lease_ms: int) -> wire.WriteResponse:
        message = wire.Commit(blocks=blocks, lease_ms=lease_ms).SerializeToString()
        with self._sending() as line:
            line.send(FRAME.pack(COMMIT, len(message), 0, 0) + message, self._deadline)
            return self._answer(line)

    def abort(self) -> None:
        line, self._line = self._line, None
        given_up = line is not None and self._parted(line)
        if self._stream is not None:
            # where the store has nothing more to do it need not be waited for
            self._stream.abort(wait=not given_up)

    def _parted(self, line: Line) -> bool:
        if self._using.locked():
            # another thread is in the middle of something: that ends now
            line.shut()
        with self._using:
            return self._given_up(line)

    def _write_raw(self, block: int, planes: range, data: Buffer, places: Sequence[slice]) -> None:
        sums = np.array(checksums(data, places), dtype=SUM).tobytes()
        with self._sending() as line:
            line.send(FRAME.pack(RAW, block, planes.start, len(planes)), self._deadline, more=True)
            # in one piece: many small ones wake the other side as often
            line.send(data, self._deadline, more=True)
            line.send(sums, self._deadline)

    def _places_of(self, ids: tuple[PlaneId, ...], planes: range) -> Sequence[slice]:
        # by identity: the blocks of a put share their planes, and comparing those costs more than all the rest
        name = id(ids), planes
        places = self._places.get(name)
        if places is None:
            sizes = [plane.raw_bytes for plane in ids[planes.start : planes.stop]]
            places = self._places[name] = slices(starts(sizes), sizes)
        return places

    @contextmanager
    def _sending(self) -> Iterator[Line]:
        """The line, for one thing at a time. What breaks it has ended the put, since what was sent may be lost."""
        with self._using:
            line = self._line
            if line is None:
                raise Unavailable(_BROKEN)
            try:
                yield line
            except OSError as error:
                self._line = None
                self._end(line)
                raise Unavailable(_BROKEN) from error

    def _end(self, line: Line) -> None:
        """Closes a line that broke; raises why, if it was the store that ended the put."""
        with closing(line), suppress(OSError):
            if self._stream is None and line.readable(0):
                answered(line, self._deadline)
        if self._stream is not None:
            self._stream.commit((), 0)
        self._deadline.check("writing")

    def _answer(self, line: Line) -> wire.WriteResponse:
        """An answer, which may take as long as the put has."""
        if not line.readable(self._deadline.remaining()):
            raise TimeoutError("the deadline passed")
        return answered(line, self._deadline)

    def _given_up(self, line: Line) -> bool:
        """Has the store give up what is not committed; whether it has said so. Then the line is free again."""
        try:
            line.send(FRAME.pack(DONE, 0, 0, 0), self._deadline)
            self._answer(line)
        except (OSError, CacheStoreError):
            line.close()
            return False
        self._lines.keep(self._address, line)
        return True


_BROKEN = "the bulk connection of this put broke; put its blocks again"
