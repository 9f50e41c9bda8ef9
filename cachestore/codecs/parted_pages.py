"""Lossless codecs of elements of two bytes: taken apart and put together on the device, compressed on the host."""

from collections.abc import Sequence

import numpy as np

from cachestore.block import BlockSpec, PlaneId
from cachestore.codecs.base import RAW, Encoded, Parted, PartedCodec
from cachestore.codecs.page_forms import Where, checksums, to_device
from cachestore.codecs.shuffle import signs, unshuffle
from cachestore.seal import CorruptBlock, checksum
from cachestore_kernels.shuffle import Split, gather_split, scatter_split


def encode(codec: PartedCodec, spec: BlockSpec, planes: Sequence[PlaneId], where: Where) -> list[list[Encoded] | None]:
    """Follows `Form`."""
    if planes[0].item_bytes != 2:
        return [None] * len(where.pages)
    split = gather_split(where.keys, where.values, where.pages, method=where.method)
    # [blocks, planes, elements]
    tops, rest = (part.flatten(3).flatten(1, 2).cpu().numpy() for part in split)
    sums = checksums(where).tolist()
    return [
        [_encoded(codec, Parted(*plane), raw_checksum) for *plane, raw_checksum in zip(*block, strict=True)]
        for block in zip(tops, rest, sums, strict=True)
    ]


def decode(
    codec: PartedCodec, spec: BlockSpec, planes: Sequence[PlaneId], where: Where, blocks: Sequence[Sequence[Encoded]]
) -> list[bool | None]:
    """Follows `Form`."""
    if planes[0].item_bytes != 2:
        return [None] * len(blocks)
    verdicts: list[bool | None] = [False] * len(blocks)
    whole: dict[int, list[Parted]] = {}
    for number, block in enumerate(blocks):
        try:
            whole[number] = [codec.decode_parted(plane.stored, planes[0].raw_bytes // 2) for plane in block]
        except CorruptBlock:
            continue
    if not whole:
        return verdicts
    there = where.at(list(whole))
    shape = (len(whole), len(where.keys), 2, *where.keys[0].shape[1:])
    tops, rest = (
        to_device([[plane[side] for plane in block] for block in whole.values()], where.pages.device).view(shape)
        for side in range(2)
    )
    scatter_split(Split(tops, rest), there.keys, there.values, there.pages, method=where.method)
    for number, sums in zip(whole, checksums(there).tolist(), strict=True):
        verdicts[number] = sums == [plane.raw_checksum for plane in blocks[number]]
    return verdicts


def _encoded(codec: PartedCodec, parted: Parted, raw_checksum: int) -> Encoded:
    stored = codec.encode_parted(parted)
    raw_bytes = 2 * parted.tops.nbytes
    if stored is not None:
        return Encoded(codec.id, stored, raw_bytes, checksum(stored), raw_checksum)
    raw = np.empty(raw_bytes, dtype=np.uint8)
    differ = signs(*parted)
    unshuffle([parted.rest ^ differ, parted.tops ^ differ], raw)
    return Encoded(RAW, raw, raw_bytes, raw_checksum, raw_checksum)
