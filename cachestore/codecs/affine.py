"""Integers of 8 or 4 bits: value = code · scale + zero, zero being the least of the group.

Behind the scales lie the zeros, of the same shape and form, and then the codes: one a byte, or two, the first in the
low half. The zero is rounded down and the scale up, so that the codes span their group and a value comes back within
half a scale of what it was, and the rounding to the element type beside that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Buffer
from cachestore.codecs.geometry import Geometry
from cachestore.codecs.grouped import Floats, Grouped, scaled, stored_scale
from cachestore.seal import CorruptBlock


@dataclass(frozen=True)
class Affine(Grouped):
    """Codes of `bits` bits."""

    bits: ClassVar[int]

    def sizes(self, geometry: Geometry) -> Sequence[int]:
        if geometry.form:
            raise CorruptBlock("codec")
        scales = 2 * prod(geometry.scales)
        return scales, scales, (geometry.elements * self.bits + 7) // 8

    def quantise(self, values: Floats, geometry: Geometry) -> Sequence[NDArray[Any]]:
        scales = np.empty(geometry.scales, dtype="<f2")
        zeros = np.empty_like(scales)
        codes = np.empty(geometry.shape, dtype=np.uint8)
        for at, piece in geometry.groups():
            group = values[piece]
            least = group.min(axis=geometry.axis, keepdims=True)
            zeros[at] = stored_scale(least, geometry.exponent, up=False)
            zero = scaled(zeros[at], geometry.exponent)
            span = group.max(axis=geometry.axis, keepdims=True) - zero
            scales[at] = stored_scale(span / np.float32((1 << self.bits) - 1), geometry.exponent, up=True)
            scale = scaled(scales[at], geometry.exponent)
            scale[scale == 0] = 1
            steps = group - zero
            steps /= scale
            np.copyto(codes[piece], np.rint(steps, out=steps), casting="unsafe")
        return scales, zeros, codes if self.bits == 8 else _packed(codes.reshape(-1))

    def restore(self, arrays: Sequence[Buffer], geometry: Geometry) -> Floats:
        halves = (array.view("<f2").reshape(geometry.scales) for array in arrays[:2])
        scales, zeros = (scaled(half, geometry.exponent) for half in halves)
        codes = arrays[2] if self.bits == 8 else _unpacked(arrays[2])[: geometry.elements]
        values = codes.astype(np.float32).reshape(geometry.shape)
        for at, piece in geometry.groups():
            values[piece] *= scales[at]
            values[piece] += zeros[at]
        return values


@dataclass(frozen=True)
class Int8(Affine):
    """256 steps a group."""

    bits: ClassVar[int] = 8

    @property
    def id(self) -> int:
        return 4


@dataclass(frozen=True)
class Int4(Affine):
    """16 steps a group."""

    bits: ClassVar[int] = 4

    @property
    def id(self) -> int:
        return 5


def _packed(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pairs = np.append(codes, np.uint8(0))[: codes.size + codes.size % 2].view("<u2")
    packed: NDArray[np.uint8] = (pairs | pairs >> np.uint16(4)).astype(np.uint8)
    return packed


def _unpacked(packed: Buffer) -> NDArray[np.uint8]:
    pairs = packed.astype("<u2")
    pairs |= pairs << np.uint16(4)
    pairs &= np.uint16(0x0F0F)
    return pairs.view(np.uint8)
