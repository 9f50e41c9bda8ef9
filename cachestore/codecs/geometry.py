"""How a plane that is coded in groups is cut, and the header that says so, so that it decodes without its spec.

offset  bytes  field (little-endian)
     0      1  form: which of its number formats the codec used
     1      1  dtype: 0 float32, 1 bfloat16, 2 float16
     2      1  axis along which groups lie: 1 tokens (keys), 2 channels (values)
     3      1  zero
     4      2  group: elements that share a scale
     6      2  exponent, signed: scales are float16 in units of two to this power, which fits the plane's largest
     8      4  heads of the plane
    12      4  tokens
    16      4  head_dim
    20      …  scales, float16, `[heads, groups, head_dim]` for keys, `[heads, tokens, groups]` for values; then
               what the codec adds, and the codes in the order of the plane
"""

import struct
from collections.abc import Iterator
from math import prod
from typing import NamedTuple, TypeAlias

from cachestore.block import ITEM_BYTES, Buffer
from cachestore.recipe import GROUPS
from cachestore.seal import CorruptBlock

DTYPES = ("float32", "bfloat16", "float16")
EXPONENTS = range(-100, 113)
"""What a plane's exponent can be; tiny planes take the lowest, so that no scale becomes a subnormal float32."""

HEADER = struct.Struct("<BBBBHhIII")
Index: TypeAlias = tuple[slice, slice, slice]


class Geometry(NamedTuple):
    """How a plane is cut into groups, and the units of its scales."""

    form: int
    dtype: str
    axis: int
    group: int
    exponent: int
    shape: tuple[int, int, int]

    @property
    def elements(self) -> int:
        """Elements of the plane."""
        return prod(self.shape)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the plane before coding."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def scales(self) -> tuple[int, int, int]:
        """The shape of the scales: the plane's, with groups in place of what they span."""
        heads, tokens, dim = self.shape
        groups = -(-self.shape[self.axis] // self.group)
        return (heads, groups, dim) if self.axis == 1 else (heads, tokens, groups)

    def groups(self) -> Iterator[tuple[Index, Index]]:
        """For each place along the axis: where its scales lie, and its elements."""
        for index, start in enumerate(range(0, self.shape[self.axis], self.group)):
            yield self._at(index, index + 1), self._at(start, start + self.group)

    def _at(self, start: int, stop: int) -> Index:
        whole, piece = slice(None), slice(start, stop)
        return (whole, piece, whole) if self.axis == 1 else (whole, whole, piece)

    def pack(self) -> bytes:
        """The header."""
        dtype = DTYPES.index(self.dtype)
        return HEADER.pack(self.form, dtype, self.axis, 0, self.group, self.exponent, *self.shape)

    @classmethod
    def parse(cls, stored: Buffer) -> "Geometry":
        """The header at the front of `stored`, from a private copy; CorruptBlock unless every field holds."""
        if stored.nbytes < HEADER.size:
            raise CorruptBlock("codec")
        form, dtype, axis, zero, group, exponent, *shape = HEADER.unpack(stored[: HEADER.size].tobytes())
        known = dtype < len(DTYPES) and axis in (1, 2) and not zero and group in GROUPS and exponent in EXPONENTS
        if not known:
            raise CorruptBlock("codec")
        return cls(form, DTYPES[dtype], axis, group, exponent, (shape[0], shape[1], shape[2]))
