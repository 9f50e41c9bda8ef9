"""Floats of one byte: value = code · scale, the scale taking the group's largest to the largest the format has.

The formats are e4m3 (finite only, up to 448; form 0) and e5m2 (up to 57344; form 1) of arXiv 2209.05433; the codes lie
behind the scales, one a byte. A value comes back within 1/16 (e4m3) or 1/8 (e5m2) of itself, or, where it is tiny
beside its group, within half of the format's least step times the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.codecs.geometry import Geometry
from cachestore.codecs.grouped import Floats, Grouped, scaled, stored_scale
from cachestore.recipe import FORMATS
from cachestore.seal import CorruptBlock

PIECE = 1 << 14
"""Values rounded at once: so few that torch wakes no other threads, which would take many times as long as the work."""

_TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Fp8(Grouped):
    """`format` is e4m3 or e5m2."""

    format: str = FORMATS[0]

    @property
    def id(self) -> int:
        return 3

    @property
    def form(self) -> int:
        return FORMATS.index(self.format)

    def sizes(self, geometry: Geometry) -> Sequence[int]:
        if geometry.form >= len(FORMATS):
            raise CorruptBlock("codec")
        return 2 * prod(geometry.scales), geometry.elements

    def quantise(self, values: Floats, geometry: Geometry) -> Sequence[NDArray[Any]]:
        kind = _TYPES[self.format]
        scales = np.empty(geometry.scales, dtype="<f2")
        steps = np.empty_like(values)
        for at, piece in geometry.groups():
            group = values[piece]
            largest = np.abs(group).max(axis=geometry.axis, keepdims=True)
            scales[at] = stored_scale(largest / np.float32(torch.finfo(kind).max), geometry.exponent, up=True)
            scale = scaled(scales[at], geometry.exponent)
            scale[scale == 0] = 1
            np.divide(group, scale, out=steps[piece])
        return scales, _rounded(steps.reshape(-1), kind)

    def restore(self, arrays: Sequence[Buffer], geometry: Geometry) -> Floats:
        scales = scaled(arrays[0].view("<f2").reshape(geometry.scales), geometry.exponent)
        values = np.take(_values(FORMATS[geometry.form]), arrays[1]).reshape(geometry.shape)
        for at, piece in geometry.groups():
            values[piece] *= scales[at]
        return values


def _rounded(values: Floats, kind: torch.dtype) -> Buffer:
    """The codes nearest to `values`, ties to even."""
    codes = np.empty(values.size, dtype=np.uint8)
    for start in range(0, values.size, PIECE):
        piece = slice(start, start + PIECE)
        torch.from_numpy(codes[piece]).view(kind).copy_(torch.from_numpy(values[piece]))
    return codes


@cache
def _values(format: str) -> Floats:
    """What each of the 256 codes stands for."""
    values: Floats = torch.arange(256, dtype=torch.uint8).view(_TYPES[format]).float().numpy()
    return values
