"""Reading leased blocks in this process: decoded and verified, each settled as what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from cachestore.block import Block, Buffer, Into, Part, Views
from cachestore.codecs.planes import decode_packed, packing_of
from cachestore.errors import InvalidArgument
from cachestore.seal import SHORT, CorruptBlock, Header, checksums
from cachestore.store.apart import apart, into_one
from cachestore.store.base import Loaded, Provisional, Taker
from cachestore.store.checks import NOTHING_TO_FILL
from cachestore.store.handing import Handing
from cachestore.store.reading import LAYOUT, SealedBlock, SealedReading
from cachestore.store.received import Received


@dataclass(eq=False)
class LocalReading:
    """The verified blocks of one read in this process; follows `cachestore.store.base.Reading`."""

    sealed: SealedReading
    into: Sequence[Into] | None = None
    received: Mapping[int, Received] = field(default_factory=dict)
    """What the reader has of blocks that were not published yet, by number."""
    came: int = 0
    _used: set[int] = field(default_factory=set)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Loaded]:
        for sealed in self.sealed:
            try:
                loaded = apart(Loaded(self._decoded(sealed), sealed.tier), self.into, sealed.number)
                sealed.check()
            except CorruptBlock as corrupt:
                if corrupt.reason == LAYOUT:
                    self.sealed.refuse(sealed)
                    return
                self.sealed.reject(sealed, corrupt.reason)
                continue
            if self.sealed.holding.over:
                return
            self._used.add(sealed.number)
            yield loaded

    def fill(self, taker: Taker | None = None) -> int:
        if (self.into is None) == (taker is None):
            raise InvalidArgument(NOTHING_TO_FILL)
        handing = None if taker is None else Handing(taker, len(self.sealed.holding.blocks))
        if handing is not None:
            self.into = handing.into
        for number, _ in enumerate(self):
            if handing is not None:
                handing.hand(number)
            self.came += 1
        return self.came

    def planes(self) -> Iterator[Provisional]:
        """Nothing: this reading began with what is published."""
        return iter(())

    def _decoded(self, sealed: SealedBlock) -> Block:
        into = into_one(self.into, sealed.number)
        received = self.received.get(sealed.number)
        block = received.block(sealed.header, into) if received is not None else None
        return block or decoded(sealed.header, sealed.payload, self.sealed.part, into, own=sealed.own)

    def close(self) -> None:
        """Settles every block and ends the lease. Closing twice is allowed."""
        self.sealed.close()
        tiered, holding = self.sealed.tiered, self.sealed.holding
        with tiered.index.changed:
            used = [held.key for index, held in enumerate(holding.blocks) if index in self._used]
            tiered.promotion.used(holding.namespace, used)
            outcomes = ("hits" if index in self._used else "misses" for index in range(len(holding.blocks)))
            holding.settle(zip(holding.blocks, outcomes, strict=True))
            tiered.leases.end(holding)


def decoded(header: Header, payload: Buffer, part: Part, into: Buffer | None = None, *, own: bool = False) -> Block:
    """The planes of `part`, decoded and verified; CorruptBlock if one does not hold.

    They are laid one behind the other into `into`, or else into memory of their own. A payload that is the reader's
    `own` is handed out itself where that needs no decoding. CorruptBlock too if `into` has another size: writers
    may say anything of a block's planes, and the reader knows what it asked for.
    """
    packing = packing_of(header.places, part)
    nbytes = packing.nbytes
    # a small part must not keep a whole block's memory
    if own and into is None and packing.pieces is not None and payload.flags.writeable and 2 * nbytes > payload.nbytes:
        data = Views(payload, packing.stored)
        if checksums(payload, packing.stored) != header.raw_checksums(packing.chosen):
            raise CorruptBlock("checksum")
    else:
        whole = np.empty(nbytes, dtype=np.uint8) if into is None else into
        if whole.nbytes != nbytes:
            raise CorruptBlock(LAYOUT)
        decode_packed(header, packing, payload, whole)
        data = Views(whole, packing.packed)
    return Block(header.key, header.token_count, packing.planes, data, bool(header.flags & SHORT))
