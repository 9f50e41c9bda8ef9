"""What a store in this process and one over gRPC check alike of what they are given."""

from collections.abc import Mapping, Sequence

import numpy as np

from cachestore.block import Buffer, Into, PlaneId, covered, pieces
from cachestore.codecs import by_id
from cachestore.codecs.base import RAW, Encoded
from cachestore.errors import DurabilityUnmet, InvalidArgument
from cachestore.hashing import KEY_BYTES
from cachestore.store.base import BlockPlan, Lease, PutAnswer, PutStatus
from cachestore.store.spread import Spread

_BYTE = np.dtype(np.uint8)
_FILLABLE = 0x0401
"""NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_WRITEABLE."""

NOTHING_TO_FILL = "fill: give the buffers to fill with the read, as `into`, or else a taker"
TAKEN_LATER = "fill: a read that is provisional has no taker; give it `into`, or iterate"
_UNMET = (PutStatus.FAILED, PutStatus.NOT_KEPT, PutStatus.IN_PROGRESS, PutStatus.KEPT_FIRST)
"""Nor what another writer has: what becomes of that is not known here."""


def check_into(into: Sequence[Into] | None, blocks: int) -> None:
    """InvalidArgument unless `into` may be filled by a read of so many blocks, as far as their sizes are not known."""
    if into is None:
        return
    if len(into) != blocks:
        raise InvalidArgument(f"into must hold one buffer for each of the {blocks} keys, got {len(into)}")
    if isinstance(into, Spread):
        into.check(fillable=True)
        return
    for index, given in enumerate(into):
        for buffer in pieces(given):
            if not is_fillable(buffer):
                raise InvalidArgument(
                    f"into[{index}] must be a one-dimensional, contiguous, writeable array of uint8, or one for each "
                    "plane, such as tensor.view(torch.uint8).numpy()"
                )


def check_provisional(lease: Lease | None, into: Sequence[Into] | None) -> None:
    """InvalidArgument for a provisional read under a lease, or into several buffers for a block."""
    if lease is not None:
        raise InvalidArgument("provisional: a lease holds what is published; read without `lease`, or not provisional")
    in_one(into)


def in_one(into: Sequence[Into] | None) -> Sequence[Buffer] | None:
    """`into`, where it has to have one buffer for each block; InvalidArgument if there are several for one."""
    if into is None:
        return None
    found = [given for given in into if isinstance(given, np.ndarray)]
    if len(found) < len(into):
        raise InvalidArgument("into must hold one buffer for each block in a read that is provisional, or of pages")
    return found


def is_fillable(buffer: Buffer) -> bool:
    """Whether this is one contiguous piece of bytes that can be written."""
    # flags as one number: to ask for each by name takes longer than all the rest
    return buffer.ndim == 1 and buffer.dtype == _BYTE and buffer.flags.num & _FILLABLE == _FILLABLE


def is_flat(data: Buffer) -> bool:
    """Whether this is one contiguous piece of bytes."""
    return data.ndim == 1 and data.dtype == _BYTE and data.flags.c_contiguous


def check_write(planes: Sequence[PlaneId], block: int, first: int, data: Buffer) -> range:
    """Which planes of block `block` `data` is, from plane `first` on; InvalidArgument if they are not whole ones."""
    chosen = covered(planes, first, data.nbytes) if is_flat(data) else range(0)
    if not chosen:
        raise InvalidArgument(
            f"plane {first} of block {block} wants {planes[first].raw_bytes} bytes in one piece, or these and all of "
            f"the planes right behind it; got {data.dtype} of shape {data.shape}"
        )
    return chosen


def check_whole(plans: Sequence[BlockPlan], blocks: Mapping[int, Into]) -> None:
    """InvalidArgument unless these are all planes of blocks that are planned."""
    check_blocks(list(blocks), len(plans))
    # by identity: the blocks of a put share their planes
    known = {id(plan.planes): plan.planes for plan in plans}
    sizes = {key: [plane.raw_bytes for plane in planes] for key, planes in known.items()}
    for block, given in blocks.items():
        wanted = sizes[id(plans[block].planes)]
        got = [piece.nbytes for piece in pieces(given)]
        if got != ([sum(wanted)] if isinstance(given, np.ndarray) else wanted) or not all(map(is_flat, pieces(given))):
            raise InvalidArgument(
                f"block {block} wants {sum(wanted)} bytes in one piece, or a piece for each plane; got {got} bytes"
            )


def check_encoded(planes: Sequence[PlaneId], block: int, first: int, encoded: Sequence[Encoded]) -> range:
    """Which planes of block `block` these are, from plane `first` on; InvalidArgument if they cannot be stored so."""
    chosen = range(first, first + len(encoded))
    if not encoded or chosen.stop > len(planes):
        raise InvalidArgument(f"encoded: {len(encoded)} planes from {first} on; block {block} has {len(planes)} planes")
    for number, each in zip(chosen, encoded, strict=True):
        at, raw_bytes, size = f"encoded plane {number} of block {block}", planes[number].raw_bytes, each.stored.nbytes
        if each.raw_bytes != raw_bytes or not 1 <= size <= raw_bytes or not is_flat(each.stored):
            raise InvalidArgument(
                f"{at} wants {raw_bytes} raw bytes, and 1 to so many stored in one piece; "
                f"got {each.raw_bytes} raw, {each.stored.dtype} of shape {each.stored.shape} stored"
            )
        if by_id(each.codec) is None:
            raise InvalidArgument(f"{at}: codec {each.codec} is none that this release knows")
        if each.codec == RAW and size != raw_bytes:
            raise InvalidArgument(f"{at}: as it is (codec {RAW}) it has {raw_bytes} bytes stored, got {size}")
    return chosen


def check_after(after: bytes | None, keys: Sequence[bytes]) -> None:
    """InvalidArgument unless `after` can be the key before these."""
    if after is not None and (len(after) != KEY_BYTES or after in keys):
        raise InvalidArgument(f"after must be the {KEY_BYTES}-byte key of the block before the first plan, or None")


def check_blocks(blocks: Sequence[int], count: int) -> None:
    """InvalidArgument unless these are numbers of blocks of a put of `count`."""
    if any(not 0 <= block < count for block in blocks):
        raise InvalidArgument(f"blocks must lie in 0 .. {count - 1}")


def unmet(answers: Sequence[PutAnswer], blocks: Sequence[int]) -> list[int]:
    """Those of these blocks of which a durable put cannot say that they are kept."""
    return [number for number in blocks if answers[number].status in _UNMET]


def check_kept(answers: Sequence[PutAnswer], blocks: Sequence[int], lacking: str = "") -> None:
    """DurabilityUnmet if there is one of these; it says what is `lacking`, if that is known."""
    if left := unmet(answers, blocks):
        raise DurabilityUnmet(
            f"{len(left)} of {len(blocks)} blocks were incomplete, another writer's, or found no tier that keeps them; "
            f"put them again{f'; {lacking}' if lacking else ''}"
        )
