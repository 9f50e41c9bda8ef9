"""The sealed block: a header that says what the bytes are, then the encoded planes.

Everything is little-endian. The payload starts at `header_bytes`; each plane starts at a multiple of 64 from there,
in any order.

    offset  bytes  field
         0      4  magic "KVCB"
         4      2  version = 1
         6      2  flags (SHORT 1, OPAQUE 2, ENCRYPTED 4)
         8      4  header_bytes: this header with table and checksum, a multiple of 64
        12      4  planes: how many rows the table has
        16     32  namespace id
        48     32  key
        80     32  fingerprint
       112      4  token_count
       116      4  key_epoch: which sealing key, 0 when not encrypted
       120     12  nonce of the encryption, zero when not encrypted
       132      4  zero
       136      8  payload_bytes
       144     16  writer: the incarnation that wrote it
       160      8  sequence: counts the writer's blocks
       168     24  zero
       192   48·n  plane table (`TABLE`): slot u16, group u16, half u8, codec u8, item_bytes u8, zero u8, then u64 each:
                   offset in the payload, stored bytes, raw bytes, xxh3-64 of stored bytes, xxh3-64 of raw bytes
  header_bytes-8   8  xxh3-64 of all header bytes before it

In the encrypted form a plane's stored bytes are ciphertext and tag, and the associated data is the header with its
stored checksums and header checksum zeroed, followed by the plane's index as u32.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Buffer, Half, Part, PlaneId

MAGIC = b"KVCB"
VERSION = 1
SHORT, OPAQUE, ENCRYPTED = 1, 2, 4
ALIGN = 64
MAX_PLANES = 1 << 16
MAX_PAYLOAD = 1 << 32

TABLE = np.dtype(
    [
        ("slot", "<u2"),
        ("group", "<u2"),
        ("half", "u1"),
        ("codec", "u1"),
        ("item_bytes", "u1"),
        ("zero", "u1"),
        ("offset", "<u8"),
        ("stored_bytes", "<u8"),
        ("raw_bytes", "<u8"),
        ("stored_checksum", "<u8"),
        ("raw_checksum", "<u8"),
    ]
)
_FIXED = struct.Struct("<4sHHII32s32s32sII12sIQ16sQ24s")
assert _FIXED.size == 192 and TABLE.itemsize == 48


class CorruptBlock(Exception):
    """These bytes are not the block that was asked for. Inside the store only: it becomes a miss and a counter.

    `reason` is one word of: truncated, foreign, header, identity, checksum, codec, stale.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to where the next plane may start."""
    return (nbytes + ALIGN - 1) // ALIGN * ALIGN


def header_bytes(planes: int) -> int:
    """How long the header of a block of `planes` planes is."""
    return aligned(_FIXED.size + planes * TABLE.itemsize + 8)


def table_of(planes: Iterable[PlaneId]) -> NDArray[np.void]:
    """A plane table with the places and raw sizes filled in, and nothing stored yet."""
    rows = [(p.slot, p.group, int(p.half), 0, p.item_bytes, 0, 0, 0, p.raw_bytes, 0, 0) for p in planes]
    return np.array(rows, dtype=TABLE)


@dataclass(frozen=True, eq=False)
class Header:
    """Identity, plane table and provenance of one sealed block."""

    namespace: bytes
    key: bytes
    fingerprint: bytes
    token_count: int
    table: NDArray[np.void]
    writer: bytes
    sequence: int
    flags: int = 0
    payload_bytes: int = 0
    key_epoch: int = 0
    nonce: bytes = bytes(12)

    def pack(self) -> bytes:
        """The header's bytes, checksum included."""
        size = header_bytes(len(self.table))
        fixed = _FIXED.pack(
            MAGIC, VERSION, self.flags, size, len(self.table), self.namespace, self.key, self.fingerprint,
            self.token_count, self.key_epoch, self.nonce, 0, self.payload_bytes, self.writer, self.sequence, bytes(24),
        )  # fmt: skip
        body = (fixed + self.table.tobytes()).ljust(size - 8, b"\0")
        return body + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")

    @classmethod
    def parse(cls, data: Any) -> Self:
        """The header at the front of `data` (any buffer); CorruptBlock unless every byte of it holds."""
        view = memoryview(data).cast("B")
        if len(view) < _FIXED.size + 8:
            raise CorruptBlock("truncated")
        # one copy: the bytes may change under us, and what is checked must be what is used
        first = bytes(view[: _FIXED.size])
        (magic, version, flags, size, planes, namespace, key, fingerprint, tokens, epoch, nonce, _, payload, writer,
         sequence, _) = _FIXED.unpack(first)  # fmt: skip
        if magic != MAGIC or version != VERSION:
            raise CorruptBlock("foreign")
        if not 1 <= planes <= MAX_PLANES or size != header_bytes(planes) or payload > MAX_PAYLOAD:
            raise CorruptBlock("header")
        if len(view) < size:
            raise CorruptBlock("truncated")
        whole = bytes(view[:size])
        if whole[: len(first)] != first or xxhash.xxh3_64_intdigest(whole[:-8]) != int.from_bytes(whole[-8:], "little"):
            raise CorruptBlock("header")
        table = np.frombuffer(whole, dtype=TABLE, count=planes, offset=_FIXED.size)
        ends = table["offset"] + table["stored_bytes"]
        if (table["offset"] > payload).any() or (table["stored_bytes"] > payload).any() or (ends > payload).any():
            raise CorruptBlock("header")
        return cls(namespace, key, fingerprint, tokens, table, writer, sequence, flags, payload, epoch, nonce)

    def check_identity(self, namespace: bytes, key: bytes, fingerprint: bytes) -> None:
        """CorruptBlock unless this is the block that was asked for (misdirected reads, stale slots)."""
        if (self.namespace, self.key, self.fingerprint) != (namespace, key, fingerprint):
            raise CorruptBlock("identity")

    @property
    def size(self) -> int:
        """Bytes of the packed header, which is where the payload starts."""
        return header_bytes(len(self.table))

    def planes(self) -> tuple[PlaneId, ...]:
        """The places and raw sizes of all planes, in table order."""
        return tuple(
            PlaneId(int(r["slot"]), Half(int(r["half"])), int(r["group"]), int(r["item_bytes"]), int(r["raw_bytes"]))
            for r in self.table
        )

    def select(self, part: Part) -> list[int]:
        """The table indices of the planes that belong to `part`, in table order."""
        return [
            index
            for index, row in enumerate(self.table)
            if part.holds(int(row["slot"]), int(row["half"]), int(row["group"]))
        ]

    def with_payload(self, payload_bytes: int) -> "Header":
        """The same header for a payload of `payload_bytes`."""
        return replace(self, payload_bytes=payload_bytes)


def digest(packed: bytes) -> bytes:
    """The 8 bytes that name one sealed form of a block, so that a read can be resumed: the header's checksum."""
    return packed[-8:]


def checksum(data: Buffer) -> int:
    """xxh3-64, seed 0."""
    return xxhash.xxh3_64_intdigest(data.data)
