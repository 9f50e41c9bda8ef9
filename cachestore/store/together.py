"""Blocks of one put that are alike, taken over from their writer and sealed together.

One by one that takes longer in Python than the bytes of small blocks do.
The first is looked at as one alone would be; the others are if they differ from it where they should not.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.codecs.base import RAW
from cachestore.plane_table import RAW_BYTES, RAW_SUM, ROW_WORDS, STORED_SUM, TABLE, WORD
from cachestore.seal import DIGEST_BYTES, KEY_AT, PARENT_AT, PARENT_BYTES, SEQUENCE_AT, TABLE_AT
from cachestore.store.laying import OpenBlock
from cachestore.tiers.slab import WORD_BYTES

KEY, SEQUENCE, PARENT, ROWS = (at // WORD for at in (KEY_AT, SEQUENCE_AT, PARENT_AT, TABLE_AT))
"""Where these begin in a header, in words."""


def lend(blocks: Iterable[OpenBlock]) -> None:
    """From now on a writer elsewhere may lay planes; what the slots say of earlier blocks is forgotten first."""
    for alike in _groups(blocks, lambda block: (id(block.layout), id(block.entry.slot.slab))):
        alike[0].entry.slot.slab.words[_last_writes(alike)] = 0
        for block in alike:
            block.lent = True


def adopt(blocks: Sequence[OpenBlock]) -> None:
    """Takes over what a writer elsewhere has laid, of each as `OpenBlock.adopt` does."""
    for alike in _groups(blocks, lambda block: (id(block.layout), id(block.entry.slot.slab), block.entry.slot.nbytes)):
        first = alike[0]
        first.adopt()
        if len(alike) == 1 or not first.written:
            for block in alike[1:]:
                block.adopt()
            continue
        words = _front(alike, len(first.layout.planes) * ROW_WORDS).reshape(len(alike), -1, ROW_WORDS)
        writes = words[:, :, RAW_BYTES].copy()
        words[:, :, RAW_BYTES] = first.layout.table["raw_bytes"]
        places = words[:, :, :STORED_SUM]
        own = first.table().view(np.uint64).reshape(-1, ROW_WORDS)[:, :STORED_SUM]
        whole = (places == own).all(axis=(1, 2)) & writes.all(axis=1)
        differ = words[:, :, STORED_SUM] != words[:, :, RAW_SUM]
        whole &= ~(differ & (first.table()["codec"] == RAW)).any(axis=1)
        tables = words.reshape(len(alike), -1).view(TABLE)
        whole &= first.entry.slot.slab.words[_last_writes(alike)] > 0
        for block, holds, table in zip(alike[1:], whole.tolist()[1:], tables[1:], strict=True):
            if holds and block.lent:
                block.take_over(table, first.end)
            else:
                block.adopt()


def seal(blocks: Iterable[OpenBlock], writer: bytes, sequences: Iterator[int], *, durable: bool, expires: int) -> None:
    """Puts the headers in front of whole blocks, of each as `OpenBlock.seal` does."""

    def kind(block: OpenBlock) -> tuple[object, ...]:
        plan = block.plan
        return id(block.layout), id(block.entry.slot.slab), plan.token_count, plan.short, block.end

    for alike in _groups([block for block in blocks if not block.sealed], kind):
        first = alike[0]
        packed = first.seal(writer, next(sequences), durable=durable, expires=expires)
        if len(alike) == 1:
            continue
        others, size = alike[1:], len(packed)
        words = np.tile(np.frombuffer(packed, dtype=np.uint64), (len(others), 1))
        words[:, KEY : KEY + 4] = _words(block.entry.name.key for block in others)
        words[:, SEQUENCE] = np.fromiter(sequences, dtype=np.uint64, count=len(others))
        none = bytes(PARENT_BYTES)
        words[:, PARENT : PARENT + 2] = _words((block.entry.parent or none)[:PARENT_BYTES] for block in others)
        rows = _words(block.table().tobytes() for block in others)
        words[:, ROWS : ROWS + rows.shape[1]] = rows
        memory = words.reshape(-1).view(np.uint8).data
        bodies = (memory[at : at + size - DIGEST_BYTES] for at in range(0, len(memory), size))
        words[:, -1] = np.fromiter(map(xxhash.xxh3_64_intdigest, bodies), dtype=np.uint64, count=len(others))
        first.entry.slot.slab.words[_places(others, words.shape[1])] = words
        for block in others:
            block.sealed = True


def _groups(blocks: Iterable[OpenBlock], kind: Callable[[OpenBlock], tuple[object, ...]]) -> Iterator[list[OpenBlock]]:
    return (list(alike) for _, alike in groupby(blocks, kind))


def _places(blocks: Sequence[OpenBlock], count: int) -> NDArray[np.int64]:
    """Where the first `count` words of each block's slot are in their slab."""
    first = np.array([block.entry.slot.offset for block in blocks], dtype=np.int64) + WORD_BYTES
    places: NDArray[np.int64] = (first // WORD)[:, None] + np.arange(count)
    return places


def _last_writes(blocks: Sequence[OpenBlock]) -> NDArray[np.int64]:
    """Where the number of each block's last write is in their slab."""
    places: NDArray[np.int64] = _places(blocks, 1)[:, 0] + (blocks[0].layout.start // WORD - 1)
    return places


def _front(blocks: Sequence[OpenBlock], count: int) -> NDArray[np.uint64]:
    """A copy of the first `count` words of each block's slot: they may change under us."""
    words: NDArray[np.uint64] = blocks[0].entry.slot.slab.words[_places(blocks, count)]
    return words


def _words(pieces: Iterable[bytes]) -> NDArray[np.uint64]:
    """Pieces of one length, a row of words each."""
    joined = list(pieces)
    return np.frombuffer(b"".join(joined), dtype=np.uint64).reshape(len(joined), -1)
