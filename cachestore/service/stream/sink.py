"""A put over gRPC: planes are encoded, gathered into frames, and sent while the next are made."""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.planes import encode_plane, slices, starts
from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.seal import checksums
from cachestore.service import convert_put
from cachestore.service.connection import Connection
from cachestore.service.status import error_of
from cachestore.service.stream.frames import plane_frame
from cachestore.service.stream.outbox import Outbox
from cachestore.store.base import PutAnswer
from cachestore.wire import store_pb2 as wire

DEPTH = 4
"""Frames that may wait to be sent."""

MOST_SEGMENTS = 4096
"""Pieces in one frame, so that tiny planes do not make a message too large."""


class StreamSink:
    """One Write stream; follows `cachestore.service.transport.Sink`."""

    def __init__(
        self,
        connection: Connection,
        codec: Codec,
        reservation: convert_put.Reservation,
        frame_bytes: int,
        deadline: Deadline,
    ) -> None:
        self._connection = connection
        self._codec = codec
        self._reservation = reservation
        self._plans = reservation.own_plans()
        self._frame_bytes = frame_bytes
        self._deadline = deadline
        self._outbox: Outbox[wire.WriteRequest | bytes] = Outbox(DEPTH)
        self._call: Any = None
        self._answers: list[PutAnswer] = []
        # the frame to be sent next: its block, its segments or else the first plane and the checksums of a run, and
        # their bytes, which are first those that are staged
        self._block = 0
        self._runs = False
        self._first = 0
        self._checksums: list[int] = []
        self._segments: list[wire.PlaneFrame.Segment] = []
        self._pieces: list[Buffer] = []
        self._filled = 0
        self._staging: Buffer = np.empty(frame_bytes, dtype=np.uint8)
        self._staged = 0

    def open(self, *, bulk: bool = False) -> wire.BulkOffer | None:
        """Reserves the blocks; what the store offers for `bulk`. Raises if it cannot be asked or refuses."""
        reserve = wire.WriteRequest(reserve=convert_put.reserve_message(self._reservation))
        reserve.reserve.bulk = bulk
        with self._connection.errors("Write"):
            self._call = self._connection.write(self._outbox, timeout=max(self._deadline.remaining(), 1e-3))
        if not self._call.add_callback(self._outbox.close):
            self._outbox.close()
        try:
            response = self._asked(reserve)
            self._answers = convert_put.reserved(self._reservation, response)
            self._runs = response.runs
        except BaseException:
            self.abort()
            raise
        return response.bulk if response.HasField("bulk") else None

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return self._answers

    def write(self, block: int, planes: range, data: Buffer) -> None:
        self._turn_to(block)
        ids = self._plans[block].planes[planes.start : planes.stop]
        sizes = [plane.raw_bytes for plane in ids]
        places = slices(starts(sizes), sizes)
        if self._codec.id == RAW:
            self._add_raw(planes, places, checksums(data, places), data)
        else:
            pairs = zip(places, ids, strict=True)
            self._add_coded(planes.start, (encode_plane(self._codec, data[place], plane) for place, plane in pairs))
        self._let_go()

    def write_encoded(self, block: int, plane: int, encoded: Sequence[Encoded]) -> None:
        self._turn_to(block)
        self._add_coded(plane, encoded)
        self._let_go()

    def commit(self, blocks: Sequence[int], lease_ms: int) -> wire.WriteResponse:
        self._flush()
        return self._asked(wire.WriteRequest(commit=wire.Commit(blocks=blocks, lease_ms=lease_ms)))

    def abort(self, *, wait: bool = True) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        self._outbox.close()
        if not wait:
            call.cancel()
            return
        try:
            # the stream ends when the store has given up the rest
            for _ in call:
                pass
        except grpc.RpcError:
            # it ended already, and with it the put
            pass

    def _turn_to(self, block: int) -> None:
        """A frame is about one block."""
        if block != self._block:
            self._flush()
            self._block = block

    def _add_coded(self, first: int, encoded: Iterable[Encoded]) -> None:
        for number, each in enumerate(encoded, first):
            self._add(number, each.codec, each.stored, each.stored_checksum, each.raw_checksum)

    def _add_raw(self, planes: range, places: Sequence[slice], sums: Sequence[int], data: Buffer) -> None:
        """Planes as they are, in runs where the store takes those: as many at once as the frame has room for."""
        at = 0
        while at < len(places):
            place = places[at]
            if not self._runs or place.stop - place.start > self._frame_bytes:
                self._add(planes[at], RAW, data[place], sums[at], sums[at])
                at += 1
                continue
            if self._segments or planes[at] != self._first + len(self._checksums):
                self._flush()
            if not self._checksums:
                self._first = planes[at]
            last = place.start + self._frame_bytes - self._filled
            most = min(len(places), at + MOST_SEGMENTS - len(self._checksums))
            end = next((number for number in range(at, most) if places[number].stop > last), most)
            if end == at:
                self._flush()
                continue
            piece = data[place.start : places[end - 1].stop]
            self._checksums += sums[at:end]
            self._pieces.append(piece)
            self._filled += piece.nbytes
            at = end

    def _add(self, plane: int, codec: int, stored: Buffer, stored_checksum: int, raw_checksum: int) -> None:
        if self._checksums:
            self._flush()
        size = stored.nbytes
        encoding = wire.Encoding(
            codec=codec, stored_bytes=size, stored_checksum=stored_checksum, raw_checksum=raw_checksum
        )
        for offset in range(0, size, self._frame_bytes):
            piece = stored if size <= self._frame_bytes else stored[offset : offset + self._frame_bytes]
            if self._filled + piece.nbytes > self._frame_bytes or len(self._segments) >= MOST_SEGMENTS:
                self._flush()
            self._segments.append(
                wire.PlaneFrame.Segment(plane=plane, encoding=encoding, offset=offset, length=piece.nbytes)
            )
            self._pieces.append(piece)
            self._filled += piece.nbytes

    def _let_go(self) -> None:
        """Holds on to nothing that is its writer's: sends a frame that is half full, and stages what is less."""
        if 2 * self._filled >= self._frame_bytes:
            self._flush()
        for piece in self._pieces:
            np.copyto(self._staging[self._staged : self._staged + piece.nbytes], piece)
            self._staged += piece.nbytes
        self._pieces.clear()

    def _flush(self) -> None:
        if self._segments or self._checksums:
            head = wire.PlaneFrame(block=self._block, segments=self._segments)
            if self._checksums:
                head.run.plane = self._first
                head.run.checksums.extend(self._checksums)
            frame = plane_frame(head, [self._staging[: self._staged], *self._pieces])
            self._segments, self._checksums = [], []
            self._pieces, self._filled, self._staged = [], 0, 0
            self._send(frame)

    def _send(self, request: wire.WriteRequest | bytes) -> None:
        if not self._outbox.put(request, self._deadline):
            self._answer()
            raise Unavailable(f"the store at {self._connection.address} ended the put")

    def _asked(self, request: wire.WriteRequest) -> wire.WriteResponse:
        self._send(request)
        return self._answer()

    def _answer(self) -> wire.WriteResponse:
        try:
            response: wire.WriteResponse = next(self._call)
        except grpc.RpcError as error:
            raise error_of(error, "Write", self._connection.address) from error
        except StopIteration:
            raise Unavailable(f"the store at {self._connection.address} ended the put") from None
        return response
