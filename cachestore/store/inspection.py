"""Is this the block that was asked for, and are its bytes those that were stored?"""

from collections.abc import Sequence

import numpy as np

from cachestore.block import Buffer
from cachestore.codecs.planes import decode_plane
from cachestore.deadline import Deadline
from cachestore.index import Entry, Name
from cachestore.seal import ENCRYPTED, FOR_OTHERS, OTHER_SPEC, CorruptBlock, Header, checksum
from cachestore.tiers.base import ColdTier, Found


def opened(data: Buffer, name: Name, fingerprint: bytes, largest: int | None = None) -> Header:
    """The header of sealed bytes, if they are the block that was asked for; CorruptBlock otherwise.

    With `largest`, also where its planes have more raw bytes than that together: those of a cold tier take what they
    say of their reader's memory, however few bytes are stored.
    """
    header = Header.parse(data)
    header.check_identity(name.namespace, name.key, fingerprint)
    if largest is not None and int(header.table["raw_bytes"].sum()) > largest:
        raise CorruptBlock("size")
    if header.flags & ENCRYPTED:
        raise CorruptBlock("epoch")
    if data.nbytes < header.size + header.payload_bytes:
        raise CorruptBlock("truncated")
    return header


def for_others(corrupt: CorruptBlock, data: Found) -> bool:
    """Whether another store may be able to read the copy `data`, which is `corrupt` to this one.

    So it is with another key, or with more memory: what `opened` refuses for its size is whole.
    """
    return corrupt.reason in FOR_OTHERS or (corrupt.reason == "size" and not isinstance(data, CorruptBlock))


def intact(header: Header, payload: Buffer) -> bool:
    """Whether every plane's stored bytes are those that the table says."""
    if payload.nbytes < header.payload_bytes:
        return False
    return all(
        checksum(payload[row.offset : row.offset + row.stored_bytes]) == row.stored_checksum
        for row in header.stored(range(len(header.table)))
    )


def decodes(header: Header, payload: Buffer) -> bool:
    """Whether every plane decodes to the raw bytes that the table says."""
    planes = header.planes()
    scratch: Buffer = np.empty(max(plane.raw_bytes for plane in planes), dtype=np.uint8)
    try:
        for plane, row in zip(planes, header.stored(range(len(planes))), strict=True):
            stored = payload[row.offset : row.offset + row.stored_bytes]
            decode_plane(plane, row, stored, scratch[: plane.raw_bytes])
    except CorruptBlock:
        return False
    return True


def copy_is_good(
    lower: Sequence[ColdTier],
    entry: Entry | None,
    tier: str,
    name: Name,
    fingerprint: bytes,
    deadline: Deadline,
    largest: int | None = None,
) -> bool | None:
    """Whether the copy that a reader saw, in memory or in the cold tier named, can be read; None if it is gone.

    None also for one that others may be able to read, though not this store, which holds none above `largest`.
    """
    slot = entry.slot if entry is not None else None
    if slot is not None:
        data: Found = slot.bytes
    else:
        data = next((c.get_many(name.namespace, [name.key], deadline)[0] for c in lower if c.name == tier), None)
    if data is None:
        return None
    if isinstance(data, CorruptBlock):
        return None if for_others(data, data) else False
    try:
        header = opened(data, name, fingerprint, largest)
        good = decodes(header, data[header.size :])
    except CorruptBlock as corrupt:
        if for_others(corrupt, data) or corrupt.reason == OTHER_SPEC:
            return None
        good = False
    try:
        if slot is not None:
            slot.check()
    except CorruptBlock:
        return None  # memory that was taken back meanwhile says nothing of the block
    return good
