"""No bytes make a decoder do harm: what it cannot read is corrupt, and what it writes is as long as was asked."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cachestore.block import BlockSpec, Buffer, PlaneId, Slot
from cachestore.codecs import by_id
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.planes import decode_plane, encode_plane
from cachestore.plane_table import Stored
from cachestore.seal import CorruptBlock
from cachestore.testing import bf16_normal

NUMBERS = [0, 1, 2, 3, 4, 5]
RECIPES = {3: "quantisation=fp8,format=e4m3,group=64", 4: "quantisation=int8,group=64", 5: "quantisation=int4,group=64"}
GUARD = 64


def decoded(number: int, stored: Buffer, size: int, item_bytes: int) -> Buffer | None:
    """What the codec makes of the bytes, None if they are corrupt; nothing around the output may change."""
    codec = by_id(number)
    assert codec is not None
    around = np.full(size + 2 * GUARD, 0x5A, dtype=np.uint8)
    out = around[GUARD : GUARD + size]
    try:
        codec.decode(stored, out, item_bytes)
    except CorruptBlock:
        return None
    finally:
        assert (around[:GUARD] == 0x5A).all() and (around[-GUARD:] == 0x5A).all()
    return out


def written(number: int) -> tuple[PlaneId, Stored, Buffer, Buffer]:
    """A plane as this codec stores it, and what must come back."""
    spec = BlockSpec("org/model", "1" * 40, "bfloat16", (Slot(1, 32, 32),), 1, recipe=RECIPES.get(number, ""))
    plane = spec.planes(33)[0]
    raw = bf16_normal(plane.raw_bytes)[: plane.raw_bytes]
    codec = codec_for(spec) or by_id(number)
    assert codec is not None
    encoded = encode_plane(codec, raw, plane)
    row = Stored(encoded.codec, 0, encoded.stored.nbytes, encoded.stored_checksum, encoded.raw_checksum)
    out = np.empty_like(raw)
    decode_plane(plane, row, encoded.stored, out)
    return plane, row, encoded.stored, out


WRITTEN = {number: written(number) for number in NUMBERS}


@pytest.mark.parametrize("number", NUMBERS)
@settings(deadline=None)
@given(stored=st.binary(max_size=300), size=st.integers(1, 5000), item_bytes=st.sampled_from([0, 1, 2, 3, 4, 8]))
@example(stored=b"", size=1, item_bytes=1)
def test_any_bytes_at_all(number: int, stored: bytes, size: int, item_bytes: int) -> None:
    decoded(number, np.frombuffer(stored, dtype=np.uint8), size, item_bytes)


@pytest.mark.parametrize("number", NUMBERS)
@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6),
    length=st.floats(0, 1.2),
    whole=st.booleans(),
)
def test_right_bytes_gone_wrong(number: int, changes: list[tuple[float, bytes]], length: float, whole: bool) -> None:
    plane, row, stored, right = WRITTEN[number]
    hostile = stored.copy()
    for place, new in changes:
        at = int(place * hostile.size)
        piece = hostile[at : at + len(new)]
        piece[:] = np.frombuffer(new, dtype=np.uint8)[: piece.size]
    if not whole:
        hostile = np.resize(hostile, int(length * hostile.size)) if int(length * hostile.size) else hostile[:0]
    decoded(number, hostile, plane.raw_bytes, plane.item_bytes)
    out = np.empty(plane.raw_bytes, dtype=np.uint8)
    try:
        decode_plane(plane, row, hostile, out)
    except CorruptBlock:
        return
    assert np.array_equal(out, right)


@pytest.mark.parametrize("number", [3, 4, 5])
@settings(deadline=None)
@given(
    form=st.integers(0, 3),
    dtype=st.integers(0, 4),
    axis=st.integers(0, 3),
    group=st.integers(0, 200),
    exponent=st.integers(-120, 140),
    shape=st.tuples(*[st.integers(0, 40) | st.just((1 << 32) - 1)] * 3),
    filling=st.integers(0, 255),
)
def test_headers_that_describe_anything(
    number: int, form: int, dtype: int, axis: int, group: int, exponent: int, shape: tuple[int, ...], filling: int
) -> None:
    header = bytes([form, dtype, axis, 0]) + group.to_bytes(2, "little") + exponent.to_bytes(2, "little", signed=True)
    header += b"".join(each.to_bytes(4, "little") for each in shape)
    count = shape[0] * shape[1] * shape[2]
    if count > 1 << 16:
        count = 100
    groups = shape[0] * -(-shape[axis] // group) * shape[3 - axis] if group and axis in (1, 2) else 0
    size = (count * (8, 8, 4)[number - 3] + 7) // 8 + min(groups, 1 << 16) * (2, 4, 4)[number - 3]
    item_bytes = (4, 2, 2)[min(dtype, 2)]
    stored = np.frombuffer(header + bytes([filling]) * size, dtype=np.uint8)
    decoded(number, stored, max(count, 1) * item_bytes, item_bytes)
