"""What the lossy codecs share: groups of elements with a scale of their own.

Keys keep their outliers in few channels, values do not; so keys are scaled per channel, a group being neighbouring
tokens, and values per token, a group being neighbouring channels (KIVI, arXiv 2402.02750). The last group of a row is
shorter where the row does not divide. Everything is computed in float32, rounded to nearest with ties to even, one
operation after the other, so that every CPU gives the same bytes.

A plane that holds an infinity or NaN, or values beyond a quarter of the largest its type has (decoded, they might round
to infinity), is stored raw: no group is poisoned by a neighbour.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import frexp
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cachestore.block import ITEM_BYTES, BlockSpec, Buffer, Half, PlaneId
from cachestore.codecs.geometry import EXPONENTS, HEADER, Geometry
from cachestore.errors import InvalidArgument
from cachestore.seal import CorruptBlock

LARGEST = {"float32": 2.0**126, "bfloat16": 2.0**126, "float16": 2.0**14}
"""By dtype, the largest magnitude that a plane may hold."""

Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Grouped(ABC):
    """A lossy codec. One without a spec, as a plane table names it, only decodes: the stored form says the rest."""

    spec: BlockSpec | None = None
    group: int = 64

    @property
    @abstractmethod
    def id(self) -> int:
        """What the plane table calls it."""

    @property
    def lossy(self) -> bool:
        return True

    @property
    def form(self) -> int:
        """Which number format to write."""
        return 0

    @abstractmethod
    def sizes(self, geometry: Geometry) -> Sequence[int]:
        """Bytes of each array behind the header, in their order. CorruptBlock if the form is unknown."""

    @abstractmethod
    def quantise(self, values: Floats, geometry: Geometry) -> Sequence[NDArray[Any]]:
        """The arrays behind the header that stand for `values`, all finite, in their order."""

    @abstractmethod
    def restore(self, arrays: Sequence[Buffer], geometry: Geometry) -> Floats:
        """The values that the arrays stand for, `[heads, tokens, head_dim]`."""

    def encode(self, raw: Buffer, plane: PlaneId) -> Buffer | None:
        geometry = self.geometry(plane)
        length = HEADER.size + sum(self.sizes(geometry))
        if length >= raw.nbytes:
            return None
        values = widened(raw, geometry.dtype).reshape(geometry.shape)
        largest = float(max(values.max(), -values.min()))
        # a NaN compares false, too
        if not largest <= LARGEST[geometry.dtype]:
            return None
        # the largest value becomes less than 2¹⁵ units, so that no scale leaves the range of float16
        geometry = geometry._replace(exponent=max(frexp(largest)[1] - 15, EXPONENTS[0]))
        stored = np.empty(length, dtype=np.uint8)
        stored[: HEADER.size] = np.frombuffer(geometry.pack(), dtype=np.uint8)
        start = HEADER.size
        # tiny values may underflow, which rounds them, and is no error whatever the process has set
        with np.errstate(under="ignore"):
            arrays = self.quantise(values, geometry)
        for array in arrays:
            stored[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            start += array.nbytes
        return stored

    def decode(self, stored: Buffer, out: Buffer, item_bytes: int) -> None:
        geometry = Geometry.parse(stored)
        if ITEM_BYTES[geometry.dtype] != item_bytes or geometry.raw_bytes != out.nbytes:
            raise CorruptBlock("codec")
        sizes = self.sizes(geometry)
        if stored.nbytes != HEADER.size + sum(sizes):
            raise CorruptBlock("codec")
        arrays = [stored[start:end] for start, end in pairwise(accumulate([HEADER.size, *sizes]))]
        # hostile scales may overflow: what comes out does not pass the raw checksum
        with np.errstate(all="ignore"):
            narrow(self.restore(arrays, geometry).reshape(-1), out, geometry.dtype)

    def geometry(self, plane: PlaneId) -> Geometry:
        """How a plane is cut, its exponent being 0. InvalidArgument if it is none of the codec's spec."""
        spec = self.spec
        if spec is None:
            raise InvalidArgument("this codec only decodes; to encode, make it from a spec with codec_for(spec)")
        axis = dim = heads = 0
        if plane.slot < len(spec.slots) and plane.half is not Half.OPAQUE:
            slot = spec.slots[plane.slot]
            heads = slot.kv_heads // spec.head_groups
            axis, dim = (1, slot.key_dim) if plane.half is Half.K else (2, slot.value_dim)
        row_bytes = heads * dim * ITEM_BYTES[spec.dtype]
        if not row_bytes or plane.raw_bytes % row_bytes or plane.item_bytes != ITEM_BYTES[spec.dtype]:
            raise InvalidArgument(f"{plane} is no plane of the codec's spec")
        return Geometry(self.form, spec.dtype, axis, self.group, 0, (heads, plane.raw_bytes // row_bytes, dim))


def scaled(half: NDArray[Any], exponent: int) -> Floats:
    """Scales as they are stored, in float32."""
    floats: Floats = np.ldexp(half.astype(np.float32), exponent)
    return floats


def stored_scale(values: Floats, exponent: int, *, up: bool) -> NDArray[np.float16]:
    """`values` as float16 in units of two to `exponent`, rounded `up` or down, so that they span what they must."""
    # adding zero gives all zeros one sign: which one a minimum keeps depends on the CPU
    units = np.ldexp(values, -exponent) + np.float32(0)
    half = units.astype(np.float16)
    wrong = half < units if up else half > units
    bound = np.float16(np.inf if up else -np.inf)
    rounded: NDArray[np.float16] = np.where(wrong, np.nextafter(half, bound), half)
    return rounded


def widened(raw: Buffer, dtype: str) -> Floats:
    """The elements of `raw` as float32."""
    if dtype == "bfloat16":
        words = raw.view("<u2").astype("<u4")
        words <<= np.uint32(16)
        return words.view("<f4")
    return raw.view("<f4" if dtype == "float32" else "<f2").astype(np.float32)


def narrow(values: Floats, out: Buffer, dtype: str) -> None:
    """Fills `out` with `values` in `dtype`, rounded to nearest, ties to even."""
    if dtype != "bfloat16":
        np.copyto(out.view("<f4" if dtype == "float32" else "<f2"), values, casting="same_kind")
        return
    words = values.view("<u4")
    odd = (words >> np.uint32(16)) & np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += words
    np.right_shift(odd, np.uint32(16), out=out.view("<u2"), dtype="<u4", casting="unsafe")
