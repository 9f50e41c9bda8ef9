from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import Buffer
from cachestore.service.stream import frames
from cachestore.wire import store_pb2 as wire

NUMBERS = st.integers(0, (1 << 32) - 1)
LONG = st.integers(0, (1 << 64) - 1)
SEGMENTS = st.lists(
    st.builds(
        wire.PlaneFrame.Segment,
        plane=NUMBERS,
        encoding=st.builds(wire.Encoding, codec=NUMBERS, stored_bytes=LONG, stored_checksum=LONG),
        offset=LONG,
        length=LONG,
    ),
    max_size=4,
)


def buffer(data: bytes) -> Buffer:
    return np.frombuffer(data, dtype=np.uint8)


@given(NUMBERS, LONG, st.binary(max_size=300))
def test_a_block_frame_is_what_protobuf_writes(block: int, offset: int, data: bytes) -> None:
    raw = frames.block_frame(wire.BlockData(block=block, offset=offset), buffer(data))
    whole = wire.ReadResponse(data=wire.BlockData(block=block, offset=offset, data=data))
    assert wire.ReadResponse.FromString(raw) == whole
    for form in (raw, whole.SerializeToString()):
        back = frames.read_response(form)
        assert isinstance(back, frames.BlockFrame)
        assert (back.head.block, back.head.offset, back.data.tobytes()) == (block, offset, data)


@given(NUMBERS, SEGMENTS, st.binary(max_size=300))
def test_a_plane_frame_is_what_protobuf_writes(block: int, segments: list[Any], data: bytes) -> None:
    raw = frames.plane_frame(wire.PlaneFrame(block=block, segments=segments), [buffer(data[:7]), buffer(data[7:])])
    whole = wire.WriteRequest(frame=wire.PlaneFrame(block=block, segments=segments, data=data))
    assert wire.WriteRequest.FromString(raw) == whole
    for form in (raw, whole.SerializeToString()):
        back = frames.write_request(form)
        assert isinstance(back, frames.PlaneFrame)
        assert (back.head.block, list(back.head.segments), back.data.tobytes()) == (block, segments, data)


@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda rest: b"\x12" + bytes((len(rest),)) + rest))
def test_any_bytes_mean_what_protobuf_says(raw: bytes) -> None:
    try:
        wanted = wire.WriteRequest.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            frames.write_request(raw)
        return
    found = frames.write_request(raw)
    if isinstance(found, frames.PlaneFrame):
        assert wanted.HasField("frame") and found.data.tobytes() == wanted.frame.data
        assert found.head.block == wanted.frame.block and list(found.head.segments) == list(wanted.frame.segments)
    else:
        assert found == wanted
