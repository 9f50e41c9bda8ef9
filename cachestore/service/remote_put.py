"""The client's side of a put: planes are encoded here, gathered into frames, and sent while the next are made."""

from collections.abc import Sequence
from typing import Any, Self

import grpc
import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.base import Codec, Encoded
from cachestore.codecs.planes import encode_plane
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, InvalidArgument, Unavailable
from cachestore.service import convert, convert_put
from cachestore.service.connection import Connection
from cachestore.service.frames import plane_frame
from cachestore.service.outbox import Outbox
from cachestore.service.status import error_of
from cachestore.store.base import Lease, PutAnswer, PutStatus, check_write
from cachestore.wire import store_pb2 as wire

DEPTH = 4
"""Frames that may wait to be sent."""

MOST_SEGMENTS = 4096
"""Pieces in one frame, so that tiny planes do not make a message too large."""


class RemotePut:
    """An open put over gRPC; follows `cachestore.store.base.Put`."""

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
        self._written: set[tuple[int, int]] = set()
        self._frame_block = 0
        self._segments: list[wire.PlaneFrame.Segment] = []
        self._staged: Buffer = np.empty(frame_bytes, dtype=np.uint8)
        self._filled = 0

    def open(self) -> None:
        """Reserves the blocks; raises if the store cannot be asked or refuses."""
        reserve = wire.WriteRequest(reserve=convert_put.reserve_message(self._reservation))
        with self._connection.errors("Write"):
            self._call = self._connection.write(self._outbox, timeout=max(self._deadline.remaining(), 1e-3))
        if not self._call.add_callback(self._outbox.close):
            self._outbox.close()
        try:
            self._answers = convert_put.answers(self._asked(reserve).answers)
        except BaseException:
            self.abort()
            raise

    @property
    def answers(self) -> Sequence[PutAnswer]:
        return tuple(self._answers)

    def write(self, block: int, plane: int, data: Buffer) -> None:
        plans = self._reservation.plans
        if not 0 <= block < len(plans):
            raise InvalidArgument(f"block {block} is not one of the {len(plans)} reserved")
        planes = plans[block].planes
        if not 0 <= plane < len(planes):
            raise InvalidArgument(f"plane {plane} is not one of the {len(planes)} of block {block}")
        if self._call is None:
            raise Aborted("the put is over")
        if self._answers[block].status is not PutStatus.WANTED:
            return
        chosen = check_write(planes, block, plane, data)
        names = {(block, number) for number in chosen}
        if not self._written.isdisjoint(names):
            raise InvalidArgument(f"one of the planes {plane} to {chosen[-1]} of block {block} was written before")
        self._written |= names
        at = 0
        for number in chosen:
            raw = data[at : at + planes[number].raw_bytes]
            self._add(block, number, encode_plane(self._codec, raw, planes[number]))
            at += raw.nbytes

    def commit(self, blocks: Sequence[int] | None = None, *, lease: float = 0.0) -> Lease | None:
        if self._call is None:
            raise Aborted("the put is over")
        wanted = [answer.block for answer in self._answers if answer.status is PutStatus.WANTED]
        chosen = wanted if blocks is None else sorted(set(blocks) & set(wanted))
        self._flush()
        lease_ms = convert.milliseconds(lease, "lease")
        response = self._asked(wire.WriteRequest(commit=wire.Commit(blocks=chosen, lease_ms=lease_ms)))
        for answer in convert_put.answers(response.answers):
            self._answers[answer.block] = answer
        return convert.lease(response.lease) if response.HasField("lease") else None

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
        self._answers = [
            PutAnswer(answer.block, PutStatus.FAILED) if answer.status is PutStatus.WANTED else answer
            for answer in self._answers
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

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
