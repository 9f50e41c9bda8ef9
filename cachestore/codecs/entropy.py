"""The exponents entropy-coded, the rest as it is: lossless, near the bound that their distribution sets.

Of a float of KV only the exponent can be foretold; sign and mantissa are noise. So in every element the sign changes
places with the first bit of the second byte. Then the top byte is the whole exponent of a bfloat16 or float32, and the
exponent with three bits of mantissa of a float16. The top bytes become one Zstandard frame, whose Huffman code comes
within a percent of their entropy. Elements of one byte are coded whole.

What is stored are the low bytes of all elements as they are, one row for each significance and the lowest first, then
the frame; of elements of any other width, or bytes that are no whole number of elements, the frame alone, of all bytes.
The frame states the size of its content, without a checksum (the sealed block has its own). Zstandard: RFC 8878.
"""

from dataclasses import dataclass
from threading import local

import numpy as np
import zstandard

from cachestore.block import Buffer, PlaneId
from cachestore.codecs.base import Parted, check_pays
from cachestore.codecs.shuffle import WORDS, shuffle, signs, unshuffle
from cachestore.seal import CorruptBlock

WINDOW = 17
"""Base-two logarithm of how far back a repeat may lie: one Zstandard block."""

MOST = 1 << 15
"""Zstandard cannot shrink further than this (a block of 128 KiB in 4 bytes), so what claims to be more is no code."""


class _Contexts(local):
    """One pair of Zstandard contexts a thread: they are costly to make and serve one call at a time."""

    def __init__(self) -> None:
        # a search that gives up almost at once: exponents hold few repeats, and Huffman coding is what pays
        search = zstandard.ZstdCompressionParameters(
            window_log=WINDOW, hash_log=6, chain_log=6, search_log=1, min_match=7, target_length=0,
            strategy=zstandard.STRATEGY_FAST, write_content_size=True, write_checksum=False,
        )  # fmt: skip
        self.compressor = zstandard.ZstdCompressor(compression_params=search)
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


@dataclass(frozen=True)
class Entropy:
    """A plane is stored raw unless it shrinks below `pays`, a share of its size."""

    pays: float = 0.95

    @property
    def id(self) -> int:
        return 2

    @property
    def lossy(self) -> bool:
        return False

    def __post_init__(self) -> None:
        check_pays(self.pays)

    def encode(self, raw: Buffer, plane: PlaneId) -> Buffer | None:
        width = _width(raw, plane.item_bytes)
        count = raw.nbytes // width
        plain = raw.nbytes - count
        rows = shuffle(raw, width) if width > 1 else raw.reshape(1, count)
        if width > 1:
            differ = signs(rows[-1], rows[-2])
            rows[-1] ^= differ
        stored = self._framed(rows[-1], plain)
        if stored is not None and width > 1:
            stored[: plain - count] = rows[:-2].reshape(-1)
            np.bitwise_xor(rows[-2], differ, out=stored[plain - count : plain])
        return stored

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        width = _width(out, item_bytes)
        count = out.nbytes // width
        plain = out.nbytes - count
        tops = _unframed(stored[plain:], count)
        if width == 1:
            np.copyto(out, tops)
            return
        *low, second = stored[:plain].reshape(-1, count)
        differ = signs(tops, second)
        unshuffle([*low, second ^ differ, tops ^ differ], out)

    def encode_parted(self, parted: Parted) -> Buffer | None:
        stored = self._framed(parted.tops, parted.rest.nbytes)
        if stored is not None:
            stored[: parted.rest.nbytes] = parted.rest
        return stored

    def decode_parted(self, stored: Buffer, count: int) -> Parted:
        return Parted(_unframed(stored[count:], count), stored[:count])

    def _framed(self, tops: Buffer, plain: int) -> Buffer | None:
        """Room for `plain` bytes and behind it the frame of `tops`; None where that does not pay."""
        frame = _contexts.compressor.compress(tops.data)
        if plain + len(frame) >= self.pays * (plain + tops.nbytes):
            return None
        stored = np.empty(plain + len(frame), dtype=np.uint8)
        stored[plain:] = np.frombuffer(frame, dtype=np.uint8)
        return stored


def _width(raw: Buffer, item_bytes: int) -> int:
    """The width of the elements that are taken apart; 1 where the bytes are coded as they are."""
    return item_bytes if item_bytes in WORDS and raw.nbytes % item_bytes == 0 else 1


def _unframed(stored: Buffer, count: int) -> Buffer:
    """The `count` bytes that a frame holds; CorruptBlock, before any memory is taken, if it says otherwise."""
    if count > MOST * stored.nbytes:
        raise CorruptBlock("codec")
    # one private copy: the decoder must not read bytes that change under it
    frame = stored.tobytes()
    try:
        if zstandard.frame_content_size(frame) != count:
            raise CorruptBlock("codec")
        # nothing else says how much memory to take, and what comes back is as long as that, or an error
        tops: Buffer = np.frombuffer(_contexts.decompressor.decompress(frame, allow_extra_data=False), dtype=np.uint8)
    except (zstandard.ZstdError, MemoryError) as error:
        raise CorruptBlock("codec") from error
    return tops
