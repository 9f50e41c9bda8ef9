"""Copying many blocks that are alike from the store's memory, with little more work for each than its bytes are."""

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from cachestore.block import Buffer, Into
from cachestore.codecs.planes import Packing, copy_planes, packing_of
from cachestore.plane_table import WORD
from cachestore.seal import ENCRYPTED, CorruptBlock, Header
from cachestore.service.shared.alike import raw_checksums
from cachestore.service.shared.mapped import Places
from cachestore.service.transport import Asked
from cachestore.store.spread import LITTLE, Spread, moved
from cachestore.tiers.slab import WORD_BYTES

AT_ONCE = 64
"""Blocks whose headers are checked at once: between two blocks' bytes no cache would still have what that takes."""


def filled(places: Places, asked: Asked, namespace: bytes, first: int, into: Sequence[Into]) -> int:
    """Copies the blocks from `first` on that lie at `places` into these buffers; how many came and hold.

    It ends before the first that is another kind of block than the one before, coded, or not what it should be.
    """
    places = places[: min(places.alike, AT_ONCE, len(into))]
    if not places:
        return 0
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
    came = 0
    for start, meant, target in zip((places.offsets + (WORD_BYTES + model.size)).tolist(), sums, into, strict=False):
        if _copied(slab.bytes, start, packing, target) != meant:
            break
        came += 1
    return min(came, places.current)


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
