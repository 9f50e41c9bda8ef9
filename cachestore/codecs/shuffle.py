"""Bytes of equal significance side by side, and back.

Elements of two and four bytes are taken apart and put together as words: numpy runs over these with the whole width of
the processor, which is three to five times as fast as copying every second or fourth byte.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer

WORDS: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}


def byte_of(items: NDArray[Any], number: int, out: Buffer) -> None:
    """Fills `out` with one byte of every word, the lowest being number 0."""
    if number:
        np.right_shift(items, items.dtype.type(8 * number), out=out, dtype=items.dtype, casting="unsafe")
    else:
        np.copyto(out, items, casting="unsafe")


def shuffle(raw: Buffer, width: int) -> NDArray[np.uint8]:
    """One row of the lowest bytes of all elements of `width` bytes, one of the second ones, and so on."""
    rows = np.empty((width, raw.nbytes // width), dtype=np.uint8)
    if width in WORDS:
        items = raw.view(WORDS[width])
        for number, row in enumerate(rows):
            byte_of(items, number, row)
    else:
        np.copyto(rows, raw.reshape(-1, width).T)
    return rows


def signs(tops: Buffer, second: Buffer) -> Buffer:
    """What makes the first bits of the two highest bytes change places when it is added to both without carry."""
    differ: Buffer = tops ^ second
    differ &= np.uint8(0x80)
    return differ


def unshuffle(rows: Sequence[Buffer] | NDArray[np.uint8], out: Buffer) -> None:
    """Fills `out` with elements made of one byte of each row, the first row being the lowest."""
    width = len(rows)
    if width in WORDS:
        items, word = out.view(WORDS[width]), WORDS[width].type
        np.multiply(rows[-1], word(1 << 8 * width - 8), out=items, dtype=items.dtype)
        for number in range(width - 2, 0, -1):
            items += np.multiply(rows[number], word(1 << 8 * number), dtype=items.dtype)
        items += rows[0]
    else:
        for column, row in zip(out.reshape(-1, width).T, rows, strict=True):
            np.copyto(column, row)
