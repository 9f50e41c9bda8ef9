"""Blocks coded where their pages are: on a device by kernels, so that only what is stored crosses to the host.

What is stored is what the codec itself writes, byte for byte, and either form reads what the other wrote. Planes that
the kernels do not take are coded from a copy on the host: slots whose K and V differ in width, codecs without a form
for a device, and blocks that hold a plane which is stored raw.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from cachestore.block import BlockSpec, Buffer, Half, PlaneId
from cachestore.codecs import by_id, parted_pages, quantised_pages
from cachestore.codecs.base import Codec, Encoded, PartedCodec
from cachestore.codecs.grouped import Grouped
from cachestore.codecs.page_forms import Form, Where
from cachestore.codecs.planes import decode_plane, encode_plane
from cachestore.plane_table import Stored
from cachestore.seal import CorruptBlock
from cachestore_kernels.method import Method

Pools = Mapping[tuple[int, Half], Tensor]
"""By slot and half, pages `[pages, kv_heads, block_tokens, dim]` on one device, all of them; a page is a block."""


def encode_pages(
    codec: Codec, spec: BlockSpec, pools: Pools, pages: Tensor, *, method: Method | None = None
) -> list[list[Encoded]]:
    """The planes of these slots in their stored form: for each block in canonical order.

    `pages` is int64 `[blocks]` on the device of the pools. `method` names a kernel's form wherever that is; None is
    fused on CUDA where Triton is installed, and the codec itself elsewhere.
    """
    found: list[dict[PlaneId, Encoded]] = [{} for _ in pages]
    for part, where, form in _parts(codec, spec, pools, pages, method):
        nobody: list[list[Encoded] | None] = [None] * len(pages)
        coded = form.encode(codec, spec, list(part), where) if form is not None else nobody
        for planes, block, page in zip(coded, found, pages.tolist(), strict=True):
            if planes is None:
                planes = [encode_plane(codec, _raw(pool[page]), plane) for plane, pool in part.items()]
            block.update(zip(part, planes, strict=True))
    order = list(_views(spec, pools))
    return [[block[plane] for plane in order] for block in found]


def decode_pages(
    spec: BlockSpec, pools: Pools, pages: Tensor, blocks: Sequence[Sequence[Encoded]], *, method: Method | None = None
) -> list[bool]:
    """Fills pages with what `encode_pages` gave; which of the blocks hold. The pages of the others are void.

    A block holds if every plane, as it lies in its page, has its raw checksum. Bytes may be any, and may change
    meanwhile. Each page at most once; `pages` and `method` as for `encode_pages`.
    """
    views = _views(spec, pools)
    left = [dict(zip(views, block, strict=True)) for block in blocks]
    holds = [True] * len(blocks)
    codecs = [{plane.codec for plane in block} for block in blocks]
    for number in set().union(*codecs):
        codec, mine = by_id(number), [at for at, ids in enumerate(codecs) if ids == {number}]
        if codec is None or not mine:
            continue
        for part, where, form in _parts(codec, spec, pools, pages[mine], method):
            if form is None:
                continue
            given = [[left[at][plane] for plane in part] for at in mine]
            for at, good in zip(mine, form.decode(codec, spec, list(part), where, given), strict=True):
                if good is not None:
                    holds[at] &= good
                    left[at] = {plane: encoded for plane, encoded in left[at].items() if plane not in part}
    for at, (page, planes) in enumerate(zip(pages.tolist(), left, strict=True)):
        holds[at] &= all(_filled(views[plane][page], plane, encoded) for plane, encoded in planes.items())
    return holds


def takes(planes: Sequence[Encoded]) -> bool:
    """Whether kernels may decode a block with these planes: all are in one form that they know."""
    codecs = {plane.codec for plane in planes}
    codec = by_id(codecs.pop())
    return not codecs and codec is not None and _form(codec) is not None


def _parts(
    codec: Codec, spec: BlockSpec, pools: Pools, pages: Tensor, method: Method | None
) -> Iterator[tuple[dict[PlaneId, Tensor], Where, Form | None]]:
    """Planes that are alike, K and V in turns, where they lie, and how kernels code them; None: they do not."""
    alike: dict[object, dict[PlaneId, Tensor]] = {}
    for plane, view in _views(spec, pools).items():
        other = pools.get((plane.slot, Half(1 - plane.half)))
        # kernels take K and V of one shape in one launch; what has no such pair is the host's
        paired = other is not None and (other.shape, other.stride()) == _like(pools[plane.slot, plane.half])
        alike.setdefault(_like(view) if paired else None, {})[plane] = view
    for like, part in alike.items():
        planes = sorted(part, key=lambda plane: (plane.slot, plane.group, plane.half))
        views = [part[plane] for plane in planes]
        runs = like is not None and (method is not None or (pages.is_cuda and find_spec("triton") is not None))
        yield (
            dict(zip(planes, views, strict=True)),
            Where(views[::2], views[1::2], pages, method),
            _form(codec) if runs else None,
        )


def _form(codec: Codec) -> Form | None:
    if isinstance(codec, Grouped):
        return quantised_pages
    return parted_pages if isinstance(codec, PartedCodec) else None


def _like(view: Tensor) -> object:
    return view.shape, view.stride()


def _views(spec: BlockSpec, pools: Pools) -> dict[PlaneId, Tensor]:
    """Where planes lie, in canonical order: pages `[pages, heads of the group, block_tokens, dim]`."""
    found = {}
    for plane in spec.planes():
        pool = pools.get((plane.slot, plane.half))
        if pool is not None:
            heads = pool.shape[1] // spec.head_groups
            found[plane] = pool[:, plane.group * heads : (plane.group + 1) * heads]
    return found


def _raw(plane: Tensor) -> Buffer:
    raw: Buffer = plane.contiguous().cpu().reshape(-1).view(torch.uint8).numpy()
    return raw


def _filled(place: Tensor, plane: PlaneId, encoded: Encoded) -> bool:
    """Whether `encoded` holds, and lies there now."""
    raw = np.empty(plane.raw_bytes, dtype=np.uint8)
    row = Stored(encoded.codec, 0, encoded.stored.nbytes, encoded.stored_checksum, encoded.raw_checksum)
    try:
        decode_plane(plane, row, encoded.stored, raw)
    except CorruptBlock:
        return False
    place.copy_(torch.from_numpy(raw).view(place.dtype).view(place.shape))
    return True
