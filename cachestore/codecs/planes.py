"""One plane at a time: coded with both checksums, and decoded only if they hold."""

from cachestore.block import Buffer, PlaneId
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW, Codec, Encoded
from cachestore.seal import CorruptBlock, Stored, checksum


def encode_plane(codec: Codec, raw: Buffer, plane: PlaneId) -> Encoded:
    """`raw` in its stored form; raw bytes are not copied where the codec leaves them as they are."""
    raw_checksum = checksum(raw)
    stored = codec.encode(raw, plane)
    if stored is None:
        return Encoded(RAW, raw, raw.nbytes, raw_checksum, raw_checksum)
    return Encoded(codec.id, stored, raw.nbytes, checksum(stored), raw_checksum)


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
