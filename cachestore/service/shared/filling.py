"""Copying many blocks that are alike from the store's memory, with little more work for each than its bytes are."""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Buffer, Into, Part
from cachestore.codecs.planes import Packing, Piece, copy_planes, packing_of, portions_of
from cachestore.plane_table import WORD
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.service.shared.alike import raw_checksums
from cachestore.service.shared.mapped import Places
from cachestore.service.transport import Asked
from cachestore.store.handing import Handed
from cachestore.store.spread import LITTLE, Spread, moved
from cachestore.tiers.slab import WORD_BYTES

AT_ONCE = 64
"""Blocks whose headers are checked at once: between two blocks' bytes no cache would still have what that takes."""

MUCH = 64 << 20
"""Bytes that are copied without a look at the clock."""


def filled(places: Places, asked: Asked, namespace: bytes, first: int, into: Sequence[Into | Handed]) -> int:
    """Copies the blocks from `first` on that lie at `places` to where they are to go; how many came and hold.

    It ends before the first that is another kind of block than the one before, coded, or not what it should be.
    """
    if not places or not into:
        return 0
    few = max(1, MUCH // max(1, int(places.sizes[0])))
    places = places[: min(places.alike, AT_ONCE, few, len(into))]
    keys = asked.chain.keys[first : first + len(places)]
    try:
        model = Header.parse(places[0].bytes)
        model.check_identity(namespace, keys[0], asked.chain.fingerprint)
    except CorruptBlock:
        return 0
    packing = packing_of(model.places, asked.part)
    short = int(places.sizes[0]) < model.size + model.payload_bytes
    if model.flags & ENCRYPTED or packing.pieces is None or short:
        return 0
    slab = places.slabs[0]
    fronts = (places.offsets + WORD_BYTES) // WORD
    words = slab.words[fronts[:, None] + np.arange(model.size // WORD)]
    sums = raw_checksums(model, words, keys)
    if len(packing.chosen) < len(model.table):
        sums = [[each[plane] for plane in packing.chosen] for each in sums]
    if isinstance(into, Spread):
        starts = places.offsets + (WORD_BYTES + model.size)
        return min(_spread(slab.bytes, starts, packing, into, sums), places.current)
    came, portions = 0, _portions(model, asked.part, into[0])
    for start, meant, target in zip((places.offsets + (WORD_BYTES + model.size)).tolist(), sums, into, strict=False):
        if isinstance(target, Handed):
            if not _handed(slab.bytes[start:], portions, target, meant):
                break
        elif _copied(slab.bytes, start, packing, target) != meant:
            break
        came += 1
    return min(came, places.current)


def _portions(model: Header, part: Part, target: Into | Handed) -> Sequence[Sequence[Piece]]:
    """How blocks like `model` go to a taker, a piece at a time; none if its rooms are not for such blocks."""
    if not isinstance(target, Handed):
        return ()
    return portions_of(model.places, (part, tuple(room.nbytes for room in target.taker.rooms))) or ()


def _handed(memory: Buffer, portions: Sequence[Sequence[Piece]], target: Handed, meant: Sequence[int]) -> bool:
    """Hands the planes that begin at `memory` on, those that hold; whether all did."""
    at = 0
    for piece, (portion, room) in enumerate(zip(portions, target.taker.rooms, strict=False)):
        sums = copy_planes(memory, room, portion)
        if sums != meant[at : at + len(sums)]:
            return False
        at += len(sums)
        target.taker.take(target.block, piece)
    return at == len(meant) > 0


def _spread(
    memory: Buffer, starts: NDArray[np.int64], packing: Packing, into: Spread, meant: Sequence[Sequence[int]]
) -> int:
    """How many of the blocks whose payloads start there, of these checksums, came whole to where they are to go."""
    if tuple(place.stop - place.start for place in packing.stored) != into.sizes or not meant:
        return 0
    froms = starts[: len(meant), None] + np.array([place.start for place in packing.stored])
    came = moved(memory, froms, into.memory, into.starts, into.sizes)
    held = (came == np.array(meant, dtype=np.uint64)).all(axis=1)
    return len(held) if held.all() else int(held.argmin())


def _copied(memory: Buffer, start: int, packing: Packing, into: Into) -> list[int] | None:
    """The checksums of the planes of a block as they have arrived; None if they do not fit."""
    if isinstance(into, np.ndarray):
        if into.nbytes != packing.nbytes:
            return None
        return copy_planes(memory[start:], into, packing.pieces or ())
    if len(into) != len(packing.stored):
        return None
    sums = []
    for out, place in zip(into, packing.stored, strict=True):
        at, nbytes = start + place.start, place.stop - place.start
        if out.nbytes != nbytes:
            return None
        if nbytes <= LITTLE:
            out.data[:] = memory.data[at : at + nbytes]
        else:
            np.copyto(out, memory[at : at + nbytes])
        sums.append(xxhash.xxh3_64_intdigest(out.data))
    return sums
