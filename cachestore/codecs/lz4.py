"""LZ4 over shuffled bytes.

KV elements are floats whose sign and exponent bytes repeat and whose mantissa bytes do not. Bytes of equal significance
are laid side by side first, so that LZ4 finds the repeats. The block format is used with the exact raw length, which
bounds what hostile bytes can make the decoder write.
"""

from dataclasses import dataclass

import lz4.block
import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Parted, check_pays
from cachestore.codecs.shuffle import shuffle, signs, unshuffle
from cachestore.errors import ConfigError
from cachestore.seal import CorruptBlock

LONGEST = 0x7E000000
"""What LZ4 takes in one piece; longer planes are stored raw."""

MOST = 256
"""LZ4 cannot shrink further than this, so what claims to be more is no code of ours."""


@dataclass(frozen=True)
class Lz4:
    """`acceleration` trades size for speed (1 is densest); a plane is stored raw unless it shrinks below `pays`."""

    acceleration: int = 1
    pays: float = 0.95

    @property
    def id(self) -> int:
        return 1

    @property
    def lossy(self) -> bool:
        return False

    def __post_init__(self) -> None:
        if self.acceleration < 1:
            raise ConfigError(f"codecs.acceleration must be at least 1, got {self.acceleration}")
        check_pays(self.pays)

    def encode(self, raw: Buffer, plane: PlaneId) -> Buffer | None:
        if raw.nbytes > LONGEST:
            return None
        return self._compressed(shuffle(raw, _width(raw, plane.item_bytes)))

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        if item_bytes < 1:
            raise CorruptBlock("codec")
        rows = _decompressed(stored, out.nbytes)
        unshuffle(rows.reshape(_width(out, item_bytes), -1), out)

    def encode_parted(self, parted: Parted) -> Buffer | None:
        if 2 * parted.tops.nbytes > LONGEST:
            return None
        return self._compressed(np.stack((parted.rest, parted.tops)) ^ signs(*parted))

    def decode_parted(self, stored: Buffer, count: int) -> Parted:
        low, high = _decompressed(stored, 2 * count).reshape(2, count)
        differ = signs(high, low)
        return Parted(high ^ differ, low ^ differ)

    def _compressed(self, rows: NDArray[np.uint8]) -> Buffer | None:
        packed = lz4.block.compress(rows.data, mode="fast", acceleration=self.acceleration, store_size=False)
        return np.frombuffer(packed, dtype=np.uint8) if len(packed) < self.pays * rows.nbytes else None


def _decompressed(stored: Buffer, nbytes: int) -> Buffer:
    """The `nbytes` bytes that `stored` holds; CorruptBlock, before any memory is taken, if it cannot be so many."""
    if nbytes > LONGEST or nbytes > MOST * stored.nbytes:
        raise CorruptBlock("codec")
    try:
        # one private copy: the decoder must not read bytes that change under it
        plain = lz4.block.decompress(stored.tobytes(), uncompressed_size=nbytes)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise CorruptBlock("codec") from error
    if len(plain) != nbytes:
        raise CorruptBlock("codec")
    return np.frombuffer(plain, dtype=np.uint8)


def _width(raw: Buffer, item_bytes: int) -> int:
    """How many bytes of different significance alternate; what is not whole elements is left in its order."""
    return item_bytes if raw.nbytes % item_bytes == 0 else 1
