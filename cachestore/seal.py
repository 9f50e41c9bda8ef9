"""The sealed block: a header that says what the bytes are, then the encoded planes.

Everything is little-endian. The payload starts at `header_bytes`; each plane starts at a multiple of 64 from there,
in any order.

    offset  bytes  field
         0      4  magic "KVCB"
         4      2  version = 1
         6      2  flags (SHORT 1, OPAQUE 2, ENCRYPTED 4, DURABLE 8)
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
       168      8  expires: milliseconds since 1970 when its time to live ends, 0 when it has none
       176     16  parent: the front of the key before it in its chain, zero when it is the first or that is not known;
                   a hint for eviction, no part of the identity
       192   48·n  plane table (`TABLE`): slot u16, group u16, half u8, codec u8, item_bytes u8, zero u8, then u64 each:
                   offset in the payload, stored bytes, raw bytes, xxh3-64 of stored bytes, xxh3-64 of raw bytes
  header_bytes-8   8  xxh3-64 of all header bytes before it

In the encrypted form a plane's stored bytes are ciphertext and tag, and the associated data is the header with its
stored checksums and header checksum zeroed, followed by the plane's index as u32.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import WHOLE, Buffer, Half, Part, PlaneId

MAGIC = b"KVCB"
VERSION = 1
SHORT, OPAQUE, ENCRYPTED, DURABLE = 1, 2, 4, 8
PARENT_BYTES = 16
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
_HALVES = tuple(Half)
_FIXED = struct.Struct("<4sHHII32s32s32sII12sIQ16sQQ16s")
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


class Stored(NamedTuple):
    """How and where one plane is stored, as the plane table says."""

    codec: int
    offset: int
    stored_bytes: int
    stored_checksum: int
    raw_checksum: int


def table_of(planes: Sequence[PlaneId], stored: Sequence[Stored] = ()) -> NDArray[np.void]:
    """The plane table of these planes; without `stored`, which goes with them in order, of nothing stored yet."""
    table = np.zeros(len(planes), dtype=TABLE)
    for names, rows in ((PlaneId._fields, planes), (Stored._fields, stored)):
        for name, column in zip(names, zip(*rows, strict=True), strict=False):
            table[name] = np.array(column, dtype=TABLE[name])
    return table


@dataclass(frozen=True, eq=False)
class Header:
    """Identity, plane table and provenance of one sealed block; `packed` is what it was parsed from."""

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
    expires: int = 0
    parent: bytes = bytes(PARENT_BYTES)
    packed: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        """The header's bytes, checksum included."""
        size = header_bytes(len(self.table))
        fixed = _FIXED.pack(
            MAGIC, VERSION, self.flags, size, len(self.table), self.namespace, self.key, self.fingerprint,
            self.token_count, self.key_epoch, self.nonce, 0, self.payload_bytes, self.writer, self.sequence,
            self.expires, self.parent,
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
         sequence, expires, parent) = _FIXED.unpack(first)  # fmt: skip
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
        if not _sound(table, payload):
            raise CorruptBlock("header")
        return cls(
            namespace, key, fingerprint, tokens, table, writer, sequence, flags, payload, epoch, nonce, expires, parent,
            whole,
        )  # fmt: skip

    def check_identity(self, namespace: bytes, key: bytes, fingerprint: bytes) -> None:
        """CorruptBlock unless this is the block that was asked for (misdirected reads, stale slots)."""
        if (self.namespace, self.key, self.fingerprint) != (namespace, key, fingerprint):
            raise CorruptBlock("identity")

    @property
    def size(self) -> int:
        """Bytes of the packed header, which is where the payload starts."""
        return header_bytes(len(self.table))

    def planes(self, chosen: Sequence[int] | None = None) -> tuple[PlaneId, ...]:
        """The places and raw sizes of all planes in table order, or of those at the indices `chosen`."""
        columns = [*self._places(), *self._columns("item_bytes", "raw_bytes")]
        planes = tuple(map(PlaneId._make, zip(*columns, strict=True)))
        return planes if chosen is None or len(chosen) == len(planes) else tuple(planes[index] for index in chosen)

    def stored(self, chosen: Sequence[int]) -> list[Stored]:
        """How and where the planes at these indices are stored."""
        columns = self._columns(*Stored._fields)
        rows = list(map(Stored._make, zip(*columns, strict=True)))
        return rows if len(chosen) == len(rows) else [rows[index] for index in chosen]

    def select(self, part: Part) -> list[int]:
        """The table indices of the planes that belong to `part`, in table order."""
        if part == WHOLE:
            return list(range(len(self.table)))
        return [index for index, place in enumerate(zip(*self._places(), strict=True)) if part.holds(*place)]

    def _places(self) -> tuple[list[int], list[Half], list[int]]:
        slots, halves, groups = self._columns("slot", "half", "group")
        return slots, [_HALVES[half] for half in halves], groups

    def _columns(self, *names: str) -> list[list[int]]:
        return [self.table[name].tolist() for name in names]


def _sound(table: NDArray[np.void], payload: int) -> bool:
    """Whether every plane lies within the payload, and none claims to be what no block of ours can be."""
    # a row is eight bytes of small fields, then the five numbers
    numbers = table.view("<u8").reshape(-1, 6)[:, 1:]
    offsets, stored, raw = numbers[:, 0], numbers[:, 1], numbers[:, 2]
    least, most = numbers.min(axis=0), numbers.max(axis=0)
    return bool(
        max(most[0], most[1]) <= payload  # so that their sums cannot run over
        and (offsets + stored).max() <= payload
        and min(least[1], least[2]) >= 1
        and most[2] <= MAX_PAYLOAD
        and raw.sum() <= MAX_PAYLOAD
        and table["half"].max() < len(_HALVES)
        and table["item_bytes"].min() >= 1
    )


def digest(packed: bytes) -> bytes:
    """The 8 bytes that name one sealed form of a block, so that a read can be resumed: the header's checksum."""
    return packed[-8:]


def checksum(data: Buffer) -> int:
    """xxh3-64, seed 0."""
    return xxhash.xxh3_64_intdigest(data.data)
