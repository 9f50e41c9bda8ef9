"""The memory that one put was lent, a slot for each of its blocks, and whole blocks laid there many at once."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Into, PlaneId
from cachestore.codecs.base import RAW
from cachestore.codecs.planes import copy_planes
from cachestore.plane_table import RAW_BYTES, RAW_SUM, STORED_SUM, WORD
from cachestore.service.shared.mapped import Mapped, Places
from cachestore.store.adopting import Front
from cachestore.store.laying import Laying, Layout, Run, layout_of
from cachestore.store.spread import LITTLE, Spread, moved
from cachestore.tiers.slab import WORD_BYTES

TELLS = 4 << 20
"""Bytes after which whoever follows the blocks can see those that were laid by then."""


class Lent:
    """The slots at `places` of the blocks of these numbers, which have these planes."""

    def __init__(self, numbers: Sequence[int], places: Places, planes: Sequence[tuple[PlaneId, ...]]) -> None:
        self._places = places
        self._at = {number: at for at, number in enumerate(numbers)}
        # by identity: the blocks of a put share their planes, and comparing those costs more than all the rest
        known = {id(each): layout_of(each) for each in planes}
        self._layouts = [known[id(each)] for each in planes]
        self._laying: dict[int, tuple[Laying, Front]] = {}

    @property
    def numbers(self) -> set[int]:
        """The blocks whose slots are lent still."""
        return set(self._at)

    def one(self, number: int) -> tuple[Laying, Front] | None:
        """What lays the planes of one block, as they come; None if it is not lent."""
        at = self._at.get(number)
        if at is None:
            return None
        if number not in self._laying:
            slot, layout = self._places[at].bytes, self._layouts[at]
            self._laying[number] = Laying(layout, lambda: slot[layout.start :]), Front(slot, layout.start)
        return self._laying[number]

    def give(self, numbers: Sequence[int]) -> None:
        """These may be other blocks' by now."""
        for number in numbers:
            self._at.pop(number, None)
            self._laying.pop(number, None)

    def lay(self, blocks: Mapping[int, Into] | Spread, wanted: Sequence[int], writes: Iterator[int]) -> None:
        """Those of these raw blocks that are wanted, whole, of which nothing was laid; `writes` numbers them.

        What is not lent is left out.
        """
        lent = [number for number in wanted if number in self._at]
        places = [self._at[number] for number in lent]
        slabs, layouts = self._places.slabs, self._layouts
        first = 0
        for alike in (list(group) for _, group in groupby(places, lambda at: (id(slabs[at]), id(layouts[at])))):
            most = max(1, TELLS // layouts[alike[0]].nbytes)
            for start in range(0, len(alike), most):
                some = alike[start : start + most]
                self._lay(some, blocks, lent[first : first + len(some)], writes)
                first += len(some)

    def _lay(
        self,
        places: Sequence[int],
        blocks: Mapping[int, Into] | Spread,
        chosen: Sequence[int],
        writes: Iterator[int],
    ) -> None:
        """Lays these blocks at these places, which are of one slab and layout."""
        slab, layout = self._places.slabs[places[0]], self._layouts[places[0]]
        fronts = self._places.offsets[list(places)] + WORD_BYTES
        run = layout.run_of(range(len(layout.planes)))
        begin = fronts + layout.start
        if isinstance(blocks, Spread):
            tos = begin[:, None] + run.offsets.astype(np.int64)
            sums = moved(blocks.memory, blocks.starts[list(chosen)], slab.bytes, tos, blocks.sizes)
        else:
            pairs = zip(begin.tolist(), chosen, strict=True)
            sums = np.array([_copied(slab, start, run, blocks[number]) for start, number in pairs], dtype=np.uint64)
        rows = np.tile(_rows(layout), (len(places), 1, 1))
        numbers = np.fromiter(writes, dtype=np.uint64, count=len(places))
        rows[:, :, RAW_BYTES] = numbers[:, None]
        rows[:, :, STORED_SUM] = rows[:, :, RAW_SUM] = sums
        first = fronts // WORD
        slab.words[first[:, None] + np.arange(rows[0].size)] = rows.reshape(len(places), -1)
        # last of all: who sees it takes the rows for whole
        slab.words[first + (layout.start // WORD - 1)] = numbers


@lru_cache(maxsize=32)
def _rows(layout: Layout) -> NDArray[np.uint64]:
    """The plane table of a whole raw block, but for its checksums, as words."""
    table = layout.table.copy()
    table["offset"] = layout.run_of(range(len(layout.planes))).offsets
    table["stored_bytes"] = table["raw_bytes"]
    table["codec"] = RAW
    return table.view(np.uint64).reshape(len(table), -1)


def _copied(slab: Mapped, start: int, run: Run, data: Into) -> list[int]:
    """Copies a block's planes to where its payload starts; their checksums as they have arrived."""
    if isinstance(data, np.ndarray):
        return copy_planes(data, slab.bytes[start:], run.pieces)
    sums, memory = [], slab.bytes.data
    for plane, offset in zip(data, run.offsets.tolist(), strict=True):
        out = memory[start + offset : start + offset + plane.nbytes]
        if plane.nbytes <= LITTLE:
            out[:] = plane.data
        else:
            np.copyto(np.frombuffer(out, dtype=np.uint8), plane)
        sums.append(xxhash.xxh3_64_intdigest(out))
    return sums
