"""Blocks whose planes go each into a buffer of its own, from where they were read in one piece."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cachestore.block import Buffer, Into
from cachestore.codecs.decoding_buffer import DecodingBuffer
from cachestore.seal import CorruptBlock
from cachestore.store.base import Loaded
from cachestore.store.reading import LAYOUT


def into_one(into: Sequence[Into] | None, number: int) -> Buffer | None:
    """The buffer of block `number`, if it is one, for an attempt to fill it."""
    given = None if into is None else into[number]
    if isinstance(given, DecodingBuffer):
        given.begin()
    return given if isinstance(given, np.ndarray) else None


def apart(loaded: Loaded, into: Sequence[Into] | None, number: int) -> Loaded:
    """The same block in the buffers of `into`, if these are several; CorruptBlock if its planes have other sizes."""
    given = None if into is None else into[number]
    if given is None or isinstance(given, np.ndarray):
        return loaded
    block = loaded.block
    if [out.nbytes for out in given] != [plane.raw_bytes for plane in block.planes]:
        raise CorruptBlock(LAYOUT)
    for out, plane in zip(given, block.data, strict=True):
        np.copyto(out, plane)
    return loaded._replace(block=replace(block, data=tuple(given)))
