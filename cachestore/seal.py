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
       192   48·n  plane table (`cachestore.plane_table`)
  header_bytes-8   8  xxh3-64 of all header bytes before it

In the encrypted form a plane's stored bytes are ciphertext and tag, and the associated data is the SHA-256 of the
header up to its checksum, stored checksums zeroed, followed by the plane's index as u32; the keys are in
`cachestore.sealing`.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Buffer, Half, Part, PlaneId
from cachestore.plane_table import PLACES, TABLE, Stored, places_of, planes_at, remembered, selected

MAGIC = b"KVCB"
VERSION = 1
SHORT, OPAQUE, ENCRYPTED, DURABLE = 1, 2, 4, 8
PARENT_BYTES = 16
ALIGN = 64
DIGEST_BYTES = 8
MAX_PLANES = 1 << 16
MAX_PAYLOAD = 1 << 32
MOST_EXPANSION = 1 << 15
"""No codec makes more of a stored byte: what claims to be more must not be given memory."""

_FIXED = struct.Struct("<4sHHII32s32s32sII12sIQ16sQQ16s")
assert _FIXED.size == 192 and TABLE.itemsize == 48
KEY_AT, KEY_END, OWN_AT, SEQUENCE_AT, PARENT_AT, TABLE_AT = 48, 80, 144, 160, 176, _FIXED.size
"""Where these begin, for who looks at many headers at once: from `OWN_AT` to the table all is one block's own."""


class CorruptBlock(Exception):
    """These bytes are not the block that was asked for. Inside the store only: it becomes a miss and a counter.

    `reason` is one word of: truncated, foreign, version, header, identity, fingerprint, checksum, codec, stale, layout;
    of a lower tier also size, type, and of sealing tag, epoch, plain.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


OTHER_SPEC = "fingerprint"
"""Reason of a block that is the one of this key, but of another fingerprint: a miss to who asks, and it stays."""

OTHER_VERSION = "version"
"""Reason of a block whose header is whole, and of another version of this format: that of another release."""

FOR_OTHERS = frozenset({"epoch", "plain", OTHER_VERSION})
"""Reasons of blocks that somebody with other keys, or of another release, may be able to open: they are misses,
counted, and stay."""


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to where the next plane may start."""
    return (nbytes + ALIGN - 1) // ALIGN * ALIGN


def header_bytes(planes: int) -> int:
    """How long the header of a block of `planes` planes is."""
    return aligned(_FIXED.size + planes * TABLE.itemsize + 8)


@remembered
def _sound(places: bytes, payload: int) -> bool:
    """Whether every plane lies within the payload, and none claims to be what no block of ours can be."""
    table = np.frombuffer(places, dtype=PLACES)
    # a row is eight bytes of small fields, then the numbers
    numbers = table.view("<u8").reshape(-1, 4)[:, 1:]
    offsets, stored, raw = numbers[:, 0], numbers[:, 1], numbers[:, 2]
    least, most = numbers.min(axis=0), numbers.max(axis=0)
    return bool(
        max(most[0], most[1]) <= payload  # so that their sums cannot run over
        and (offsets + stored).max() <= payload
        and min(least[1], least[2]) >= 1
        and most[2] <= MAX_PAYLOAD
        and raw.sum() <= min(MAX_PAYLOAD, MOST_EXPANSION * payload)
        and table["half"].max() < len(Half)
        and table["item_bytes"].min() >= 1
    )


def _whole(data: memoryview | bytes, size: int) -> bool:
    """Whether a header of `size` bytes ends with its checksum: those of all versions do, and begin alike."""
    if not DIGEST_BYTES < size <= min(len(data), header_bytes(MAX_PLANES)):
        return False
    whole = bytes(data[:size])
    return xxhash.xxh3_64_intdigest(whole[:-DIGEST_BYTES]) == int.from_bytes(whole[-DIGEST_BYTES:], "little")


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
    places: bytes = field(init=False, repr=False)
    """The plane table without its checksums, as `PLACES`: what follows from that is worked out once for many blocks."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", places_of(self.table))

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
        if magic != MAGIC:
            raise CorruptBlock("foreign")
        if version != VERSION:
            raise CorruptBlock(OTHER_VERSION if _whole(view, size) else "foreign")
        if not 1 <= planes <= MAX_PLANES or size != header_bytes(planes) or payload > MAX_PAYLOAD:
            raise CorruptBlock("header")
        if len(view) < size:
            raise CorruptBlock("truncated")
        whole = bytes(view[:size])
        if whole[: len(first)] != first or not _whole(whole, size):
            raise CorruptBlock("header")
        table = np.frombuffer(whole, dtype=TABLE, count=planes, offset=_FIXED.size)
        header = cls(
            namespace, key, fingerprint, tokens, table, writer, sequence, flags, payload, epoch, nonce, expires, parent,
            whole,
        )  # fmt: skip
        if not _sound(header.places, payload):
            raise CorruptBlock("header")
        return header

    def check_identity(self, namespace: bytes, key: bytes, fingerprint: bytes) -> None:
        """CorruptBlock unless this is the block that was asked for (misdirected reads, stale slots)."""
        if (self.namespace, self.key) != (namespace, key):
            raise CorruptBlock("identity")
        if self.fingerprint != fingerprint:
            raise CorruptBlock(OTHER_SPEC)

    @property
    def size(self) -> int:
        """Bytes of the packed header, which is where the payload starts."""
        return header_bytes(len(self.table))

    def raw_checksums(self, chosen: Sequence[int]) -> list[int]:
        """The checksums of the raw bytes of the planes at these indices."""
        sums: list[int] = self.rows(chosen)["raw_checksum"].tolist()
        return sums

    def planes(self, chosen: Sequence[int] | None = None) -> tuple[PlaneId, ...]:
        """The places and raw sizes of all planes in table order, or of those at the indices `chosen`."""
        return planes_at(self.places, range(len(self.table)) if chosen is None else chosen)

    def rows(self, chosen: Sequence[int]) -> NDArray[np.void]:
        """The rows of the plane table at these indices, which are in table order."""
        return self.table if len(chosen) == len(self.table) else self.table[list(chosen)]

    def stored(self, chosen: Sequence[int]) -> list[Stored]:
        """How and where the planes at these indices are stored."""
        rows = self.rows(chosen)
        return list(map(Stored._make, zip(*(rows[name].tolist() for name in Stored._fields), strict=True)))

    def select(self, part: Part) -> list[int]:
        """The table indices of the planes that belong to `part`, in table order."""
        return list(selected(self.places, part))


def digest(packed: bytes) -> bytes:
    """The 8 bytes that name one sealed form of a block, so that a read can be resumed: the header's checksum."""
    return packed[-DIGEST_BYTES:]


def checksum(data: Buffer) -> int:
    """xxh3-64, seed 0."""
    return xxhash.xxh3_64_intdigest(data.data)


def checksums(data: Buffer, pieces: Iterable[slice]) -> list[int]:
    """The checksums of these pieces of `data`."""
    return list(map(xxhash.xxh3_64_intdigest, map(data.data.__getitem__, pieces)))
