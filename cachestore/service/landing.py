"""Where the bytes of one block go as they arrive: at once to where its reader wants them, if that needs no decoding."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cachestore.block import Block, Buffer, Part, Views
from cachestore.codecs.planes import packing_of
from cachestore.seal import SHORT, CorruptBlock, Header, checksums
from cachestore.service.ranges import ranges
from cachestore.store.local_reading import decoded


class Target(NamedTuple):
    """A range of the payload, from `start` on, and the memory that it fills."""

    start: int
    memory: Buffer


class Landing:
    """Memory for the planes of `part` of the block that `header` describes, the caller's `into` where that works."""

    def __init__(self, header: Header, part: Part, into: Buffer | None) -> None:
        self._header = header
        self._part = part
        self._into = into
        packing = packing_of(header.places, part)
        self._payload: Buffer | None = None
        self._sums: list[int] | None = None
        self.targets: Sequence[Target]
        if into is not None and packing.start is not None and into.nbytes == packing.nbytes:
            self.targets = [Target(packing.start, into)]
        else:
            self._payload = payload = np.empty(header.payload_bytes, dtype=np.uint8)
            self.targets = [Target(start, payload[start:end]) for start, end in ranges(header, part)]

    def fill(self, take: Callable[[Buffer], object]) -> None:
        """`take` fills the targets, in order. What needs no decoding is hashed while the processor's cache has it."""
        pieces = packing_of(self._header.places, self._part).pieces
        if self._payload is not None or self._into is None or pieces is None:
            for target in self.targets:
                take(target.memory)
            return
        self._sums = []
        for piece in pieces:
            take(self._into[piece.target])
            self._sums += checksums(self._into, piece.planes)

    def block(self) -> Block:
        """The block, once every target is filled; CorruptBlock if its planes do not hold."""
        header = self._header
        if self._payload is not None:
            return decoded(header, self._payload, self._part, self._into, own=True)
        packing = packing_of(header.places, self._part)
        assert self._into is not None
        sums = checksums(self._into, packing.packed) if self._sums is None else self._sums
        if sums != header.raw_checksums(packing.chosen):
            raise CorruptBlock("checksum")
        views = Views(self._into, packing.packed)
        return Block(header.key, header.token_count, packing.planes, views, bool(header.flags & SHORT))
