"""Blocks of one read whose headers are alike, checked at once: one by one it takes longer than small blocks do.

The first header is parsed; the others must say the same, but for what differs from block to block. They are copied
before they are looked at, and their checksums verified, as `Header.parse` does.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.plane_table import RAW_SUM, ROW_WORDS, STORED_SUM, WORD
from cachestore.seal import DIGEST_BYTES, KEY_AT, KEY_END, OWN_AT, TABLE_AT, Header

KEY = slice(KEY_AT // WORD, KEY_END // WORD)
OWN = slice(OWN_AT // WORD, TABLE_AT // WORD)
"""The words of a header that are of every block its own."""


@lru_cache(maxsize=32)
def _same(planes: int, size: int) -> NDArray[np.intp]:
    """The words of a header of so many planes that are the same in all blocks of one kind."""
    same = np.ones(size // WORD, dtype=bool)
    same[KEY] = same[OWN] = False
    same[OWN.stop : OWN.stop + planes * ROW_WORDS].reshape(planes, -1)[:, STORED_SUM:] = False
    same[-1] = False
    return np.flatnonzero(same)


def raw_checksums(model: Header, words: NDArray[np.uint64], keys: Sequence[bytes]) -> list[list[int]]:
    """Of each header, a row of `words`, the raw checksums of its planes, up to the first that does not hold.

    They hold that are whole, of these keys, and otherwise like `model`, which was parsed and checked.
    """
    own = np.frombuffer(model.packed, dtype="<u8")
    same = _same(len(model.table), len(model.packed))
    named = np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), -1)
    alike = (words[:, same] == own[same]).all(axis=1)
    alike &= (words[:, KEY] == named).all(axis=1)
    words = words[: _leading(alike)]
    packed, size, digest = words.tobytes(), len(model.packed), xxhash.xxh3_64_intdigest
    whole = size - DIGEST_BYTES
    digests = np.array([digest(packed[at : at + whole]) for at in range(0, len(packed), size)], dtype="<u8")
    words = words[: _leading(words[:, -1] == digests)]
    rows = words[:, OWN.stop : OWN.stop + len(model.table) * ROW_WORDS]
    sums: list[list[int]] = rows.reshape(len(words), len(model.table), -1)[:, :, RAW_SUM].tolist()
    return sums


def _leading(holds: NDArray[np.bool_]) -> int:
    """How many hold, from the first on."""
    return len(holds) if holds.all() else int(holds.argmin())
