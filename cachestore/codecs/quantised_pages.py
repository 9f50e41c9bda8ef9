"""Lossy codecs in groups: quantised as pages are gathered, restored as they are scattered, all on the device."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cachestore.block import BlockSpec, PlaneId
from cachestore.codecs.base import Encoded
from cachestore.codecs.fp8 import Fp8
from cachestore.codecs.geometry import EXPONENTS, HEADER, Geometry
from cachestore.codecs.grouped import LARGEST, Grouped
from cachestore.codecs.page_forms import Where, checksums, to_device
from cachestore.recipe import FORMATS
from cachestore.seal import CorruptBlock, checksum
from cachestore_kernels.quant import GROUPS, Form, Quantised, gather_quantised, peaks, scatter_dequantised

EXPONENT = slice(6, 8)
"""Where the header has it."""


def encode(codec: Grouped, spec: BlockSpec, planes: Sequence[PlaneId], where: Where) -> list[list[Encoded] | None]:
    """Follows `Form`."""
    found: list[list[Encoded] | None] = [None] * len(where.pages)
    cuts = [codec.geometry(plane) for plane in planes[:2]]
    lengths = [HEADER.size + sum(codec.sizes(cut)) for cut in cuts]
    if not _takes(cuts[0], codec) or max(lengths) >= planes[0].raw_bytes:
        return found
    largest = peaks(where.keys, where.values, where.pages, method=where.method)
    # a NaN compares false, too
    whole = (largest <= LARGEST[spec.dtype]).flatten(1).all(1).cpu()
    blocks = whole.nonzero()[:, 0].tolist()
    if not blocks:
        return found
    there = where.at(blocks)
    # the largest value becomes less than 2¹⁵ units, so that no scale leaves the range of float16
    exponents = (torch.frexp(largest[blocks]).exponent - 15).clamp(min=EXPONENTS[0])
    codes = gather_quantised(
        there.keys, there.values, there.pages, form=_form(codec, cuts[0]), group=cuts[0].group, exponents=exponents,
        method=where.method,
    )  # fmt: skip
    sums = _settled_checksums(codes, exponents, there)
    stored = [_joined(codes, exponents, side, cut).cpu().numpy() for side, cut in enumerate(cuts)]
    for at, block in enumerate(blocks):
        rows = [stored[number % 2][at, number // 2] for number in range(len(planes))]
        found[block] = [
            Encoded(codec.id, row, planes[0].raw_bytes, checksum(row), raw_checksum)
            for row, raw_checksum in zip(rows, sums[at].tolist(), strict=True)
        ]
    return found


def decode(
    codec: Grouped, spec: BlockSpec, planes: Sequence[PlaneId], where: Where, blocks: Sequence[Sequence[Encoded]]
) -> list[bool | None]:
    """Follows `Form`."""
    verdicts: list[bool | None] = [None] * len(blocks)
    shape = (where.keys[0].shape[1], where.keys[0].shape[2], where.keys[0].shape[3])
    alike: dict[Geometry, list[int]] = {}
    for number, block in enumerate(blocks):
        cut = _cut_of(codec, spec, shape, block)
        if cut is not None and _takes(cut, codec):
            alike.setdefault(cut, []).append(number)
    for cut, numbers in alike.items():
        there = where.at(numbers)
        exponents, codes = _parted(codec, cut, [blocks[number] for number in numbers], where.pages.device)
        scatter_dequantised(codes, there.keys, there.values, there.pages, exponents=exponents, method=where.method)
        for number, sums in zip(numbers, checksums(there).tolist(), strict=True):
            verdicts[number] = sums == [plane.raw_checksum for plane in blocks[number]]
    return verdicts


def _form(codec: Grouped, cut: Geometry) -> Form:
    names = FORMATS if isinstance(codec, Fp8) else ("int8" if codec.id == 4 else "int4",)
    return cast(Form, names[cut.form])


def _takes(cut: Geometry, codec: Grouped) -> bool:
    """Whether kernels write and read what is cut so."""
    return cut.group in GROUPS and not (_form(codec, cut) == "int4" and cut.shape[2] % 2)


def _settled_checksums(codes: Quantised, exponents: Tensor, where: Where) -> NDArray[np.uint64]:
    """Those of what the codes stand for, which readers will get: restored beside the pages, on the device."""
    raw = torch.empty(
        (len(where.pages), 2 * len(where.keys), *where.keys[0].shape[1:]),
        dtype=where.keys[0].dtype, device=where.pages.device,
    )  # fmt: skip
    every = torch.arange(len(raw), device=raw.device)
    beside = Where(list(raw[:, ::2].unbind(1)), list(raw[:, 1::2].unbind(1)), every, where.method)
    scatter_dequantised(codes, beside.keys, beside.values, every, exponents=exponents, method=where.method)
    return checksums(beside)


def _arrays(codes: Quantised, side: int) -> list[Tensor]:
    """What lies behind the header of K or V, in its order; of the codes, a view."""
    scales = (codes.key_scales, codes.value_scales)[side]
    zeros = (codes.key_zeros, codes.value_zeros)[side]
    return [scales, *([] if zeros is None else [zeros]), codes.codes[:, :, side]]


def _joined(codes: Quantised, exponents: Tensor, side: int, cut: Geometry) -> Tensor:
    """The stored bytes of the planes of K or V: uint8 `[blocks, planes, bytes]`."""
    device = exponents.device
    header = torch.frombuffer(bytearray(cut.pack()), dtype=torch.uint8).to(device)
    headers = header.repeat(*exponents.shape[:2], 1)
    headers[..., EXPONENT] = exponents[:, :, side, None].to(torch.int16).view(torch.uint8)
    bytes_of = [array.flatten(2).contiguous().view(torch.uint8) for array in _arrays(codes, side)]
    return torch.cat([headers, *bytes_of], 2)


def _parted(
    codec: Grouped, cut: Geometry, blocks: Sequence[Sequence[Encoded]], device: torch.device
) -> tuple[Tensor, Quantised]:
    """The exponents and the codes that planes were stored as."""
    count, (heads, tokens, _) = len(blocks), cut.shape
    sides = []
    for side in range(2):
        axis = cut._replace(axis=1 + side)
        stored = to_device([[plane.stored for plane in block[side::2]] for block in blocks], device)
        head, *arrays = torch.split(stored, [HEADER.size, *codec.sizes(axis)], 2)
        exponents = head[..., EXPONENT].contiguous().view(torch.int16)[..., 0].int()
        halves = [part.contiguous().view(torch.float16).view(count, -1, *axis.scales) for part in arrays[:-1]]
        sides.append((exponents, halves, arrays[-1].view(count, stored.shape[1], heads, tokens, -1)))
    (first, keys, key_codes), (second, values, value_codes) = sides
    zeros = (keys[1], values[1]) if len(keys) == 2 else (None, None)
    codes = torch.stack((key_codes, value_codes), 2)
    whole = Quantised(_form(codec, cut), cut.group, codes, keys[0], values[0], *zeros)
    return torch.stack((first, second), 2), whole


def _cut_of(codec: Grouped, spec: BlockSpec, shape: tuple[int, int, int], block: Sequence[Encoded]) -> Geometry | None:
    """How all planes of a block are cut, axis and exponent aside; None if they are not of these shapes, or differ."""
    found: Geometry | None = None
    for number, plane in enumerate(block):
        try:
            cut = Geometry.parse(plane.stored)
            fits = plane.stored.nbytes == HEADER.size + sum(codec.sizes(cut))
        except CorruptBlock:
            return None
        if not fits or (cut.dtype, cut.axis, cut.shape) != (spec.dtype, 1 + number % 2, shape):
            return None
        cut = cut._replace(axis=1, exponent=0)
        if found not in (None, cut):
            return None
        found = cut
    return found
