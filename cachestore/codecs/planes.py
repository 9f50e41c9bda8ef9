"""Planes, one at a time or many in one go: coded with both checksums, and handed out only if they hold.

Planes that are stored as they are move at the speed of memory: those that lie back to back are copied in pieces, and
each piece is hashed while the processor's cache still has it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, Part, PlaneId
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.plane_table import PLACES, Stored, planes_at, remembered, selected
from cachestore.seal import CorruptBlock, Header, checksum, checksums

PIECE = 256 << 10
"""Bytes copied at once: little enough for a core's own cache, and so many that a copy's fixed cost does not show."""


def encode_plane(codec: Codec, raw: Buffer, plane: PlaneId) -> Encoded:
    """`raw` in its stored form; raw bytes are not copied where the codec leaves them as they are.

    What a reader must get back is what decoding gives, so that is what the raw checksum of a lossy plane is taken of.
    """
    stored = codec.encode(raw, plane)
    if stored is None:
        raw_checksum = checksum(raw)
        return Encoded(RAW, raw, raw.nbytes, raw_checksum, raw_checksum)
    read_back = raw
    if codec.lossy:
        read_back = np.empty_like(raw)
        codec.decode(stored, read_back, plane.item_bytes)
    return Encoded(codec.id, stored, raw.nbytes, checksum(stored), checksum(read_back))


def holds(encoded: Encoded, stored: Buffer) -> bool:
    """Whether `stored`, where the plane lies now, is what its writer coded. What it decodes to, readers will see."""
    if encoded.codec == RAW and encoded.stored_checksum != encoded.raw_checksum:
        return False
    return checksum(stored) == encoded.stored_checksum


def decode_plane(plane: PlaneId, row: Stored, stored: Buffer, out: Buffer) -> None:
    """Fills `out` with the plane that `row` of the plane table describes.

    The raw checksum is taken over the bytes handed out, so what passes is right whatever happened to `stored` before,
    while or after it was read. CorruptBlock otherwise.
    """
    codec = by_id(row.codec)
    if codec is None or out.nbytes != plane.raw_bytes:
        raise CorruptBlock("codec")
    codec.decode(stored, out, plane.item_bytes)
    if checksum(out) != row.raw_checksum:
        raise CorruptBlock("checksum")


def decode_planes(header: Header, chosen: Sequence[int], payload: Buffer, out: Buffer) -> None:
    """Fills `out` with the planes at the indices `chosen`, one behind the other; as `decode_plane` does with one."""
    decode_packed(header, _packing(header.places, tuple(chosen)), payload, out)


def decode_packed(header: Header, packing: "Packing", payload: Buffer, out: Buffer) -> None:
    """Does the same with planes whose packing is known; the owner of `out` may decode them elsewhere."""
    if payload.nbytes < header.payload_bytes:
        raise CorruptBlock("truncated")
    if packing.pieces is not None:
        if copy_planes(payload, out, packing.pieces) != header.raw_checksums(packing.chosen):
            raise CorruptBlock("checksum")
        return
    rows = header.stored(packing.chosen)
    stored = [payload[row.offset : row.offset + row.stored_bytes] for row in rows]
    if isinstance(out, DecodingBuffer):
        coded = [
            Encoded(row.codec, data, plane.raw_bytes, row.stored_checksum, row.raw_checksum)
            for plane, row, data in zip(packing.planes, rows, stored, strict=True)
        ]
        held = out.decode(packing.planes, coded)
        if held is False:
            raise CorruptBlock("checksum")
        if held:
            return
    for plane, row, data, place in zip(packing.planes, rows, stored, packing.packed, strict=True):
        decode_plane(plane, row, data, out[place])


class Piece(NamedTuple):
    """Planes that lie back to back on both sides and are copied at once: from where, to where, and each there."""

    source: slice
    target: slice
    planes: tuple[slice, ...]


class Packing(NamedTuple):
    """Where planes lie in their payload and one behind the other; `pieces` is the way there if all are as they are.

    `start` is where they begin in the payload if they lie there, raw, one behind the other as they do when packed.
    """

    chosen: tuple[int, ...]
    planes: tuple[PlaneId, ...]
    stored: tuple[slice, ...]
    packed: tuple[slice, ...]
    nbytes: int
    pieces: tuple[Piece, ...] | None
    start: int | None


@remembered
def packing_of(places: bytes, part: Part) -> Packing:
    """How the planes of `part` are stored and packed, of a table given as `Header.places`."""
    return _packing(places, selected(places, part))


@remembered
def _packing(places: bytes, chosen: tuple[int, ...]) -> Packing:
    rows = np.frombuffer(places, dtype=PLACES)[list(chosen)]
    sizes = rows["raw_bytes"].tolist()
    stored = slices(rows["offset"].tolist(), rows["stored_bytes"].tolist())
    packed = slices(starts(sizes), sizes)
    pieces = pieces_of(stored, packed) if as_they_are(rows) else None
    shifts = {there.start - here.start for there, here in zip(stored, packed, strict=True)}
    start = shifts.pop() if pieces is not None and len(shifts) == 1 else None
    return Packing(chosen, planes_at(places, chosen), stored, packed, sum(sizes), pieces, start)


@remembered
def portions_of(places: bytes, asked: tuple[Part, tuple[int, ...]]) -> tuple[tuple[Piece, ...], ...] | None:
    """The way there of planes of a part that go a few at a time, portions of so many bytes, each to a place of its own.

    None if not all are as they are, or a portion ends within a plane.
    """
    part, sizes = asked
    packing = packing_of(places, part)
    if packing.pieces is None or sum(sizes) != packing.nbytes:
        return None
    found, first = [], 0
    for start, nbytes in zip(starts(sizes), sizes, strict=True):
        inside = [place for place in packing.packed[first:] if place.stop <= start + nbytes]
        last = first + len(inside)
        found.append(
            pieces_of(packing.stored[first:last], [slice(place.start - start, place.stop - start) for place in inside])
        )
        if not inside or inside[-1].stop != start + nbytes:
            return None
        first = last
    return tuple(found)


def as_they_are(rows: NDArray[np.void]) -> bool:
    """Whether the stored bytes of all these planes are their raw bytes."""
    return not (rows["codec"] != RAW).any() and bool((rows["stored_bytes"] == rows["raw_bytes"]).all())


def starts(sizes: Sequence[int]) -> list[int]:
    """Where planes of these sizes begin when they lie one behind the other."""
    at = 0
    return [(at := at + size) - size for size in sizes]


def slices(offsets: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """The places of planes of these sizes at these offsets."""
    return tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))


def pieces_of(sources: Sequence[slice], targets: Sequence[slice]) -> tuple[Piece, ...]:
    """How to copy planes from these places to those, with as few and as large copies as the cache allows."""
    pieces: list[Piece] = []
    for source, target in zip(sources, targets, strict=True):
        if pieces:
            froms, tos, planes = pieces[-1]
            if froms.stop == source.start and tos.stop == target.start and source.stop - froms.start <= PIECE:
                whole = slice(froms.start, source.stop), slice(tos.start, target.stop)
                pieces[-1] = Piece(*whole, (*planes, target))
                continue
        pieces.append(Piece(source, target, (target,)))
    return tuple(pieces)


def copy_planes(source: Buffer, target: Buffer, pieces: Sequence[Piece]) -> list[int]:
    """Copies piece by piece; the checksums of the planes as they have arrived in `target`."""
    sums: list[int] = []
    for piece in pieces:
        np.copyto(target[piece.target], source[piece.source])
        sums += checksums(target, piece.planes)
    return sums
