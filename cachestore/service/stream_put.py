"""A put over gRPC: planes are encoded, gathered into frames, and sent while the next are made."""

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.base import Codec, Encoded
from cachestore.codecs.planes import encode_plane
from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.service import convert_put
from cachestore.service.connection import Connection
from cachestore.service.frames import plane_frame
from cachestore.service.outbox import Outbox
from cachestore.service.status import error_of
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
        self._frame_bytes = frame_bytes
        self._deadline = deadline
        self._outbox: Outbox[wire.WriteRequest | bytes] = Outbox(DEPTH)
        self._call: Any = None
        self._answers: list[PutAnswer] = []
        self._frame_block = 0
        self._segments: list[wire.PlaneFrame.Segment] = []
        self._staged: Buffer = np.empty(frame_bytes, dtype=np.uint8)
        self._filled = 0

    def open(self, *, bulk: bool = False) -> wire.BulkOffer | None:
        """Reserves the blocks; raises if the store cannot be asked or refuses. What it offers, if `bulk` is asked for."""
        reserve = wire.WriteRequest(reserve=convert_put.reserve_message(self._reservation))
        reserve.reserve.bulk = bulk
        with self._connection.errors("Write"):
            self._call = self._connection.write(self._outbox, timeout=max(self._deadline.remaining(), 1e-3))
        if not self._call.add_callback(self._outbox.close):
            self._outbox.close()
        try:
            response = self._asked(reserve)
            self._answers = convert_put.answers(response.answers)
        except BaseException:
            self.abort()
            raise
        return response.bulk if response.HasField("bulk") else None

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return self._answers

    def write(self, block: int, planes: range, data: Buffer) -> None:
        ids = self._reservation.plans[block].planes
        at = 0
        for number in planes:
            raw = data[at : at + ids[number].raw_bytes]
            self._add(block, number, encode_plane(self._codec, raw, ids[number]))
            at += raw.nbytes

    def commit(self, blocks: Sequence[int], lease_ms: int) -> wire.WriteResponse:
        self._flush()
        return self._asked(wire.WriteRequest(commit=wire.Commit(blocks=blocks, lease_ms=lease_ms)))

    def abort(self) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        self._outbox.close()
        try:
            # the stream ends when the store has given up the rest
            for _ in call:
                pass
        except grpc.RpcError:
            # it ended already, and with it the put
            pass

    def _add(self, block: int, plane: int, encoded: Encoded) -> None:
        stored = encoded.stored
        encoding = wire.Encoding(
            codec=encoded.codec,
            stored_bytes=stored.nbytes,
            stored_checksum=encoded.stored_checksum,
            raw_checksum=encoded.raw_checksum,
        )
        size = stored.nbytes
        if (
            block != self._frame_block
            or self._filled + size > self._frame_bytes
            or len(self._segments) >= MOST_SEGMENTS
        ):
            self._flush()
        self._frame_block = block
        for offset in range(0, size, self._frame_bytes):
            piece = stored[offset : offset + self._frame_bytes]
            self._segments.append(
                wire.PlaneFrame.Segment(plane=plane, encoding=encoding, offset=offset, length=piece.nbytes)
            )
            if size > self._frame_bytes:
                self._send_frame(piece)
            else:
                np.copyto(self._staged[self._filled : self._filled + size], piece)
                self._filled += size

    def _flush(self) -> None:
        if self._segments:
            self._send_frame(self._staged[: self._filled])

    def _send_frame(self, data: Buffer) -> None:
        head = wire.PlaneFrame(block=self._frame_block, segments=self._segments)
        self._segments, self._filled = [], 0
        self._send(plane_frame(head, data))

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
