"""The messages that carry bytes, without protobuf's own copies of them.

On the wire they are what protobuf would write: a `BlockData` or a `PlaneFrame` within a `ReadResponse`, a `PlaneFrame`
within a `WriteRequest`, each with its `data`, field 3, last. Whoever writes them otherwise is understood too, through
protobuf.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from cachestore.block import Buffer
from cachestore.wire import store_pb2 as wire

_DATA_TAG = 3 << 3 | 2


class BlockFrame(NamedTuple):
    """A `BlockData` and its bytes."""

    head: wire.BlockData
    data: Buffer


class PlaneFrame(NamedTuple):
    """A `PlaneFrame` and its bytes."""

    head: wire.PlaneFrame
    data: Buffer


class Unjoined:
    """The answers of a Read; starts and ends of blocks that came along with bytes are messages of their own again."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._behind: list[wire.ReadResponse | BlockFrame] = []

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._behind:
            return self._behind.pop()
        message = next(self._call)
        if not isinstance(message, BlockFrame):
            return message
        if message.head.last:
            self._behind.append(wire.ReadResponse(end=wire.BlockEnd(block=message.head.block, status=wire.SENT)))
        if not message.head.HasField("start"):
            return message
        self._behind.append(message)
        return wire.ReadResponse(start=message.head.start)

    def cancel(self) -> None:
        """Ends the call; never waits."""
        self._call.cancel()


def block_frame(head: wire.BlockData, data: Buffer) -> bytes:
    """A serialized `ReadResponse`; the one copy of `data` there is."""
    return _joined(wire.ReadResponse.DATA_FIELD_NUMBER, head.SerializeToString(), [data])


def plane_frame(head: wire.PlaneFrame, pieces: Sequence[Buffer]) -> bytes:
    """A serialized `WriteRequest`; the one copy of `pieces` there is."""
    return _joined(wire.WriteRequest.FRAME_FIELD_NUMBER, head.SerializeToString(), pieces)


def provisional_frame(head: wire.PlaneFrame, pieces: Sequence[Buffer]) -> bytes:
    """A serialized `ReadResponse` with planes of a block that is being written; the one copy of `pieces` there is."""
    return _joined(wire.ReadResponse.PLANES_FIELD_NUMBER, head.SerializeToString(), pieces)


def serialized(message: Any) -> bytes:
    """A message's bytes, or those of a frame that has them already."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def read_response(raw: bytes) -> wire.ReadResponse | BlockFrame | PlaneFrame:
    """What one message of a Read's answer says."""
    split = _split(raw, wire.ReadResponse.DATA_FIELD_NUMBER)
    if split is not None:
        return BlockFrame(wire.BlockData.FromString(split[0]), split[1])
    split = _split(raw, wire.ReadResponse.PLANES_FIELD_NUMBER)
    if split is not None:
        return PlaneFrame(wire.PlaneFrame.FromString(split[0]), split[1])
    message = wire.ReadResponse.FromString(raw)
    match message.WhichOneof("message"):
        case "data":
            return BlockFrame(message.data, np.frombuffer(message.data.data, dtype=np.uint8))
        case "planes":
            return PlaneFrame(message.planes, np.frombuffer(message.planes.data, dtype=np.uint8))
    return message


def write_request(raw: bytes) -> wire.WriteRequest | PlaneFrame:
    """What one message of a Write says."""
    split = _split(raw, wire.WriteRequest.FRAME_FIELD_NUMBER)
    if split is not None:
        return PlaneFrame(wire.PlaneFrame.FromString(split[0]), split[1])
    message = wire.WriteRequest.FromString(raw)
    if message.WhichOneof("message") != "frame":
        return message
    return PlaneFrame(message.frame, np.frombuffer(message.frame.data, dtype=np.uint8))


READ = "/cachestore.v1.CacheStore/Read"
WRITE = "/cachestore.v1.CacheStore/Write"

PARSERS: dict[str, Callable[[bytes], Any]] = {WRITE: write_request}
"""How the server reads the requests of a method, where not through protobuf alone."""


def _joined(field: int, head: bytes, pieces: Sequence[Buffer]) -> bytes:
    size = sum(piece.nbytes for piece in pieces)
    inner = head + bytes((_DATA_TAG,)) + _varint(size)
    return b"".join((bytes((field << 3 | 2,)), _varint(len(inner) + size), inner, *(piece.data for piece in pieces)))


def _split(raw: bytes, field: int) -> tuple[bytes, Buffer] | None:
    """The inner message without its data, and the data; None unless `raw` is laid out as `_joined` does it."""
    if len(raw) < 2 or raw[0] != field << 3 | 2:
        return None
    try:
        size, start = _number(raw, 1)
        at = start
        while start + size == len(raw) and at < len(raw):
            tag, value = _number(raw, at)
            length, behind = _number(raw, value)
            if tag == _DATA_TAG:
                if behind + length != len(raw):
                    return None
                return raw[start:at], np.frombuffer(raw, dtype=np.uint8, offset=behind) if length else _NOTHING
            if tag & 7 == 2:
                behind += length
            elif tag & 7:
                return None
            at = behind
    except IndexError:
        return None
    return None


_NOTHING: Buffer = np.empty(0, dtype=np.uint8)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(raw: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and where it ends; IndexError behind the end or beyond 64 bits."""
    value = 0
    for shift in range(0, 64, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
