"""The sealed header byte by byte: its layout, and that nothing but the very same bytes passes."""

import struct
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from cachestore.block import Half, Part, PlaneId
from cachestore.plane_table import TABLE, Stored, table_of
from cachestore.seal import (
    MAX_PAYLOAD,
    OPAQUE,
    SHORT,
    CorruptBlock,
    Header,
    aligned,
    checksum,
    checksums,
    digest,
    header_bytes,
)

PLANES = (PlaneId(0, Half.K, 0, 2, 100), PlaneId(0, Half.V, 1, 2, 100), PlaneId(300, Half.V, 259, 4, 1 << 20))
STORED = (Stored(0, 0, 100, 11, 2**64 - 1), Stored(1, 128, 90, 2**63, 13), Stored(1, 256, 7, 15, 16))
NAMESPACE, KEY, ROOT = bytes(range(32)), bytes(range(32, 64)), bytes(range(64, 96))
WRITER = bytes(range(96, 112))


def header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "namespace": NAMESPACE,
        "key": KEY,
        "fingerprint": ROOT,
        "token_count": 64,
        "table": table_of(PLANES, STORED),
        "writer": WRITER,
        "sequence": 2**40 + 1,
        "flags": SHORT | OPAQUE,
        "payload_bytes": 320,
    }
    return Header(**(values | changes))


def reason(data: Any) -> str:
    with pytest.raises(CorruptBlock) as caught:
        Header.parse(data)
    return caught.value.reason


def resealed(packed: bytes) -> bytes:
    """The same bytes under a checksum that holds: what somebody who knows the format can write."""
    return packed[:-8] + xxhash.xxh3_64_digest(packed[:-8])[::-1]


def test_every_field_lies_where_the_format_says() -> None:
    packed = header(key_epoch=7, nonce=bytes(range(12))).pack()
    at = struct.unpack_from
    assert packed[:4] == b"KVCB"
    assert at("<HHII", packed, 4) == (1, 3, len(packed), 3)
    assert packed[16:48] == NAMESPACE and packed[48:80] == KEY and packed[80:112] == ROOT
    assert at("<II", packed, 112) == (64, 7) and packed[120:132] == bytes(range(12))
    assert at("<IQ", packed, 132) == (0, 320)
    assert packed[144:160] == WRITER and at("<Q", packed, 160) == (2**40 + 1,)
    assert packed[168:192] == bytes(24)
    rows = [at("<HHBBBBQQQQQ", packed, 192 + 48 * row) for row in range(3)]
    assert rows == [
        (0, 0, 0, 0, 2, 0, 0, 100, 100, 11, 2**64 - 1),
        (0, 1, 1, 1, 2, 0, 128, 90, 100, 2**63, 13),
        (300, 259, 1, 1, 4, 0, 256, 7, 1 << 20, 15, 16),
    ]
    assert len(packed) == header_bytes(3) == 384 and not any(packed[192 + 3 * 48 : -8])
    assert packed[-8:] == xxhash.xxh3_64_intdigest(packed[:-8]).to_bytes(8, "little") == digest(packed)


def test_the_bytes_are_those_of_the_first_release() -> None:
    assert header().pack().hex() == (
        "4b564342010003008001000003000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f"
        "505152535455565758595a5b5c5d5e5f4000000000000000000000000000000000000000000000004001000000000000"
        "606162636465666768696a6b6c6d6e6f0100000000010000000000000000000000000000000000000000000000000000"
        "00000000000002000000000000000000640000000000000064000000000000000b00000000000000ffffffffffffffff"
        "000001000101020080000000000000005a00000000000000640000000000000000000000000000800d00000000000000"
        "2c010301010104000001000000000000070000000000000000001000000000000f000000000000001000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000b842d1fec9edb9af"
    )


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 7))
def test_what_is_packed_is_parsed(planes: int, tokens: int, sequence: int, flags: int) -> None:
    places = tuple(PlaneId(index, Half.K, index * 7, 1 + index, 10 + index) for index in range(planes))
    stored = [Stored(1, 64 * index, 9, index, 2**64 - 1 - index) for index in range(planes)]
    one = header(
        table=table_of(places, stored), token_count=tokens, sequence=sequence, flags=flags, payload_bytes=64 * planes
    )
    packed = one.pack()
    assert len(packed) % 64 == 0 and len(packed) == one.size
    other = Header.parse(packed + b"payload")
    assert other.pack() == packed == other.packed
    assert other.planes() == places and other.stored(range(planes)) == stored
    assert (other.token_count, other.sequence, other.flags) == (tokens, sequence, flags)


def test_any_buffer_is_parsed() -> None:
    packed = header().pack()
    for data in (packed, bytearray(packed), memoryview(packed), np.frombuffer(packed, dtype=np.uint8)):
        assert Header.parse(data).key == KEY


def test_no_flipped_bit_passes() -> None:
    packed = header().pack()
    for bit in range(8 * len(packed)):
        flipped = bytearray(packed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(flipped) in ("foreign", "header", "truncated")


def test_a_whole_header_of_another_version_is_for_others() -> None:
    packed = header().pack()
    for version in (0, 2, 0xFFFF):
        other = packed[:4] + struct.pack("<H", version) + packed[6:]
        # flipped by chance, or written so
        assert (reason(other), reason(resealed(other))) == ("foreign", "version")
        # whatever a later one has in it
        longer = bytearray(other + bytes(128))
        struct.pack_into("<II", longer, 8, len(longer), 0)
        assert reason(resealed(bytes(longer)) + b"payload") == "version"
        assert reason(resealed(bytes(longer))[:-1]) == "foreign"


def test_no_truncation_passes() -> None:
    packed = header().pack()
    for length in range(len(packed)):
        assert reason(packed[:length]) == "truncated"
        assert reason(np.frombuffer(packed[:length], dtype=np.uint8)) == "truncated"


@given(st.binary(max_size=600))
def test_no_random_bytes_pass(data: bytes) -> None:
    assert reason(data) in ("foreign", "truncated")
    assert reason(b"KVCB\1\0" + data) in ("header", "truncated")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, 2**32 - 64),  # the length of the header
        (8, 0),
        (12, 0),  # how many planes
        (12, 2**32 - 1),
        (12, 4),
    ],
)
def test_tables_of_another_size_are_refused(offset: int, value: int) -> None:
    packed = bytearray(header().pack())
    struct.pack_into("<I", packed, offset, value)
    assert reason(resealed(bytes(packed))) == "header"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("offset", 257),
        ("offset", 2**64 - 1),
        ("offset", 2**64 - 64),
        ("stored_bytes", 2**64 - 200),
        ("stored_bytes", 400),
        ("stored_bytes", 0),
        ("raw_bytes", 0),
        ("raw_bytes", 2**62),
        ("raw_bytes", MAX_PAYLOAD),
        ("half", 3),
        ("item_bytes", 0),
    ],
)
def test_tables_that_lie_are_refused_although_their_checksum_holds(field: str, value: int) -> None:
    table = table_of(PLANES, STORED)
    row = 1 if field == "stored_bytes" or value == 257 else 2
    table[field][row] = value
    if value == 257:
        table["stored_bytes"][row] = 64
    assert reason(header(table=table).pack()) == "header"


def test_a_payload_longer_than_any_is_refused() -> None:
    assert reason(header(payload_bytes=MAX_PAYLOAD + 1).pack()) == "header"


def test_only_the_block_that_was_asked_for_passes() -> None:
    parsed = Header.parse(header().pack())
    parsed.check_identity(NAMESPACE, KEY, ROOT)
    for asked in ((KEY, KEY, ROOT), (NAMESPACE, ROOT, ROOT), (b"", KEY, ROOT), (NAMESPACE, ROOT, KEY)):
        with pytest.raises(CorruptBlock, match="identity"):
            parsed.check_identity(*asked)
    with pytest.raises(CorruptBlock, match="fingerprint"):
        parsed.check_identity(NAMESPACE, KEY, KEY)


def test_a_part_selects_rows() -> None:
    parsed = Header.parse(header().pack())
    assert parsed.select(Part()) == [0, 1, 2]
    assert parsed.select(Part(halves=frozenset({Half.V}))) == [1, 2]
    assert parsed.select(Part(slots=range(300, 301))) == [2]
    assert parsed.select(Part(slots=range(5, 6))) == []
    assert parsed.planes([2]) == PLANES[2:] and parsed.stored([2, 0]) == [STORED[2], STORED[0]]


def test_what_is_remembered_of_a_table_is_not_taken_for_another() -> None:
    for change in ("offset", "stored_bytes", "raw_bytes", "slot", "group", "half", "codec", "item_bytes"):
        table = table_of(PLANES, STORED)
        table[change][1] ^= 1
        one, other = (Header.parse(header(table=rows).pack()) for rows in (table_of(PLANES, STORED), table))
        assert one.places != other.places
        assert (one.planes(), one.stored(range(3))) != (other.planes(), other.stored(range(3)))
    sums = table_of(PLANES, [row._replace(stored_checksum=1, raw_checksum=2) for row in STORED])
    one, other = header(), header(table=sums)
    assert one.places == other.places and other.raw_checksums([0, 2]) == [2, 2]
    assert one.raw_checksums(range(3)) == [row.raw_checksum for row in STORED]


def test_a_table_is_sound_for_its_own_payload_only() -> None:
    assert Header.parse(header().pack()).payload_bytes > 64
    assert reason(header(payload_bytes=64).pack()) == "header"
    assert Header.parse(header().pack()).payload_bytes > 64


def test_sizes_and_checksums() -> None:
    assert [aligned(size) for size in (0, 1, 63, 64, 65)] == [0, 64, 64, 64, 128]
    assert TABLE.itemsize == 48
    data = np.arange(256, dtype=np.uint8)
    assert checksum(data) == xxhash.xxh3_64(bytes(range(256))).intdigest()
    assert checksum(data[3:9]) == xxhash.xxh3_64(bytes(range(3, 9))).intdigest()
    pieces = [slice(0, 9), slice(200, 256), slice(3, 4)]
    assert checksums(data, pieces) == [checksum(data[piece]) for piece in pieces]
