"""Blocks of one read whose headers are alike, checked at once: one by one it takes longer than small blocks do.

The first header is parsed; the others must say the same, but for what differs from block to block. They are copied
before they are looked at, and their checksums verified, as `Header.parse` does.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.plane_table import TABLE
from cachestore.seal import DIGEST_BYTES, Header

WORD = 8
"""Bytes of what headers are compared by; every field that may differ begins and ends at a multiple."""

KEY = slice(48, 80)
OWN = slice(144, 192)
"""Of every block its own: writer, sequence, expiry and parent."""

_TABLE = 192
_STORED = TABLE.fields["stored_checksum"][1] // WORD if TABLE.fields else 0


@lru_cache(maxsize=32)
def _same(planes: int, size: int) -> NDArray[np.intp]:
    """The words of a header of so many planes that are the same in all blocks of one kind."""
    same = np.ones(size // WORD, dtype=bool)
    for field in (KEY, OWN):
        same[field.start // WORD : field.stop // WORD] = False
    rows = same[_TABLE // WORD : (_TABLE + planes * TABLE.itemsize) // WORD].reshape(planes, -1)
    rows[:, _STORED:] = False
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
    alike &= (words[:, KEY.start // WORD : KEY.stop // WORD] == named).all(axis=1)
    words = words[: _leading(alike)]
    packed, size = words.reshape(-1).view(np.uint8).data, len(model.packed)
    whole = (packed[at : at + size - DIGEST_BYTES] for at in range(0, len(packed), size))
    digests = np.fromiter(map(xxhash.xxh3_64_intdigest, whole), dtype="<u8", count=len(words))
    words = words[: _leading(words[:, -1] == digests)]
    rows = words[:, _TABLE // WORD : (_TABLE + len(model.table) * TABLE.itemsize) // WORD]
    sums: list[list[int]] = rows.reshape(len(words), len(model.table), -1)[:, :, _STORED + 1].tolist()
    return sums


def _leading(holds: NDArray[np.bool_]) -> int:
    """How many hold, from the first on."""
    return len(holds) if holds.all() else int(holds.argmin())
