"""B2: every field of every request as no client of ours would fill it: a status from the table, no word too many."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from cachestore.hashing import Chain
from cachestore.service import convert, convert_put
from cachestore.service.server import SERVICE
from cachestore.service.status import CODES
from cachestore.store.base import Durability
from cachestore.testing import plans_of
from cachestore.wire import store_pb2 as pb
from tests.faults.calls import putting, reading
from tests.faults.values import prompt
from tests.faults.wire import SMALL, Wire

METHODS = pb.DESCRIPTOR.services_by_name["CacheStore"].methods_by_name
ALLOWED = {*CODES.values(), grpc.StatusCode.UNIMPLEMENTED} - {grpc.StatusCode.INTERNAL}
EXTREMES: dict[int, list[Any]] = {
    FieldDescriptor.TYPE_UINT32: [0, 1, (1 << 31) - 1, (1 << 32) - 1],
    FieldDescriptor.TYPE_UINT64: [0, 1, 1 << 63, (1 << 64) - 1],
    FieldDescriptor.TYPE_FIXED64: [0, (1 << 64) - 1],
    FieldDescriptor.TYPE_ENUM: [0, 1, 99, -1],
    FieldDescriptor.TYPE_BOOL: [False, True],
    FieldDescriptor.TYPE_STRING: ["", "x" * 100_000, "../..", "a\nb\x00c", "'; --", "{x}*"],
    FieldDescriptor.TYPE_BYTES: [b"", b"x", bytes(31), bytes(33), bytes(100_000), b"\x80\x05cos\nsystem\n"],
}


def sample(method: str, keys: Chain, blocks: Any) -> Message:
    """A request that fills what it can sensibly fill."""
    message: Any = METHODS[method].input_type._concrete_class()
    fields = message.DESCRIPTOR.fields_by_name
    if "chain" in fields:
        message.chain.CopyFrom(convert.chain_message(keys))
    if method == "Write":
        asked = convert_put.Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None, None)
        message.reserve.CopyFrom(convert_put.reserve_message(asked))
    if method == "Register":
        message.member.role, message.member.name = "prefill", "p"
    return message  # type: ignore[no-any-return]


def filled(message: Any) -> Iterator[bytes]:
    """The message with one field at a time at each of its extremes, here and in what it contains."""
    for field in message.DESCRIPTOR.fields:
        changed = type(message)()
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            repeated = field.is_repeated
            inner = getattr(message, field.name)
            inner = (inner[0] if inner else field.message_type._concrete_class()) if repeated else inner
            for raw in filled(inner):
                changed.CopyFrom(message)
                changed.ClearField(field.name)
                # behind the rest, and parsed anew on the other side
                yield changed.SerializeToString() + bytes_field(field.number, raw)
            continue
        for value in EXTREMES.get(field.type, []):
            changed.CopyFrom(message)
            changed.ClearField(field.name)
            if field.is_repeated:
                getattr(changed, field.name).extend([value] * 3)
            else:
                setattr(changed, field.name, value)
            yield changed.SerializeToString()
        changed.CopyFrom(message)
        changed.ClearField(field.name)
        yield changed.SerializeToString()


def bytes_field(number: int, raw: bytes) -> bytes:
    """A field of bytes as it stands in a message."""
    return pb.ReadRequest(lease=raw).SerializeToString().replace(b"\x1a", varint(number << 3 | 2), 1) if raw else b""


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def misshapen(raw: bytes) -> Iterator[bytes]:
    """The same bytes cut, doubled, and with fields that are not known, not finished or not text."""
    yield from (raw[:length] for length in range(0, len(raw), max(1, len(raw) // 7)))
    yield raw + raw
    yield raw + varint(9999 << 3 | 2) + b"\x03abc" + varint(9998 << 3) + b"\x01"
    deep = b""
    for _ in range(150):
        deep = bytes_field(1, deep or b"\x08\x01")
    yield deep
    yield b"\x0b" * 150
    for number in range(1, 9):
        yield raw + varint(number << 3 | 2) + b"\x02\xff\xfe"
        yield raw + varint(number << 3) + b"\xff" * 10 + b"\x01"
        yield raw + varint(number << 3 | 5) + b"\xff\xff\xff\xff"


def called(channel: grpc.Channel, method: str, raw: bytes) -> grpc.RpcError | None:
    """How a call with this request fails, if it does; of a stream the first answer counts."""
    path = f"/{SERVICE}/{method}"
    descriptor = METHODS[method]
    try:
        if descriptor.client_streaming:
            list(channel.stream_stream(path)(iter([raw]), timeout=5))
        elif descriptor.server_streaming:
            stream = channel.unary_stream(path)(raw, timeout=5)
            next(stream, None)
            stream.cancel()
        else:
            channel.unary_unary(path)(raw, timeout=5)
    except grpc.RpcError as error:
        return error
    return None


@pytest.mark.parametrize("method", list(METHODS))
def test_b2_any_field_of_any_request_may_be_wrong(wired: Wire, method: str) -> None:
    keys, blocks = prompt(SMALL, 2)
    message = sample(method, keys, blocks)
    requests = {*filled(message), *misshapen(message.SerializeToString())}
    with grpc.insecure_channel(wired.server.address) as channel:
        for raw in requests:
            error: Any = called(channel, method, raw)
            if error is None:
                continue
            assert error.code() in ALLOWED, (raw[:200], error)
            assert "Traceback" not in error.details() and "Error" not in error.details(), (raw[:200], error)
            assert error.details().isprintable(), (raw[:200], error)
    wired.direct.clear()
    assert putting(wired.store, keys, blocks) == ["stored"] * 2 and reading(wired.store, keys) == 2
