"""LZ4 over shuffled bytes.

KV elements are floats whose sign and exponent bytes repeat and whose mantissa bytes do not. Bytes of equal significance
are laid side by side first, so that LZ4 finds the repeats. The block format is used with the exact raw length, which
bounds what hostile bytes can make the decoder write.
"""

from dataclasses import dataclass

import lz4.block
import numpy as np

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock


@dataclass(frozen=True)
class Lz4:
    """`acceleration` trades size for speed (1 is densest); a plane is stored raw unless it shrinks below `pays`."""

    acceleration: int = 1
    pays: float = 0.95

    @property
    def id(self) -> int:
        return 1

    def encode(self, raw: Buffer, item_bytes: int) -> Buffer | None:
        packed = lz4.block.compress(
            _shuffle(raw, item_bytes), mode="fast", acceleration=self.acceleration, store_size=False
        )
        return np.frombuffer(packed, dtype=np.uint8) if len(packed) < self.pays * raw.nbytes else None

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        try:
            # one private copy: the decoder must not read bytes that change under it
            plain = lz4.block.decompress(stored.tobytes(), uncompressed_size=out.nbytes)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
            raise CorruptBlock("codec") from error
        if len(plain) != out.nbytes or item_bytes < 1 or out.nbytes % item_bytes:
            raise CorruptBlock("codec")
        shuffled = np.frombuffer(plain, dtype=np.uint8).reshape(item_bytes, -1)
        np.copyto(out.reshape(-1, item_bytes), shuffled.T)


def _shuffle(raw: Buffer, item_bytes: int) -> bytes:
    return raw.reshape(-1, item_bytes).T.tobytes()
