"""What a put means to write, checked once for all blocks that are alike."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple, Self

from cachestore.block import Half, PlaneId
from cachestore.errors import InvalidArgument
from cachestore.hashing import KEY_BYTES
from cachestore.plane_table import MOST_PLANES_KNOWN
from cachestore.seal import MAX_PLANES

_HALVES = frozenset(Half)


class _Fields(NamedTuple):
    key: bytes
    token_count: int
    planes: tuple[PlaneId, ...]
    short: bool


class BlockPlan(_Fields):
    """One block of a put: identity and planes. `short` marks the short last block of a chain."""

    __slots__ = ()

    def __new__(cls, key: bytes, token_count: int, planes: tuple[PlaneId, ...], short: bool = False) -> Self:
        return cls.alike([key], token_count, planes, short)[0]

    @classmethod
    def alike(
        cls, keys: Sequence[bytes], token_count: int, planes: tuple[PlaneId, ...], short: bool = False
    ) -> list[Self]:
        """Blocks that differ by their keys alone, in the order of these."""
        wrong = next((key for key in keys if len(key) != KEY_BYTES), None)
        if wrong is not None:
            raise InvalidArgument(f"key must be {KEY_BYTES} bytes, got {len(wrong)}")
        # numpy would cut a fraction off, and the block say other tokens than its plan
        if not isinstance(token_count, int):
            raise InvalidArgument(f"token_count must be a whole number, got {token_count!r}")
        if not 1 <= token_count < 1 << 32 or not 1 <= len(planes) <= MAX_PLANES:
            raise InvalidArgument(f"a block needs at least one token and 1 to {MAX_PLANES} planes")
        # a client may name any number of planes: what is remembered must stay small
        (_checked if len(planes) <= MOST_PLANES_KNOWN else _check_planes)(planes)
        fields: Iterable[tuple[object, ...]] = zip(keys, repeat(token_count), repeat(planes), repeat(short))
        return list(map(cls._make, fields))

    @property
    def raw_bytes(self) -> int:
        """Bytes of all planes before coding."""
        return sum(plane.raw_bytes for plane in self.planes)


def _check_planes(planes: tuple[PlaneId, ...]) -> None:
    """InvalidArgument unless these are a block's."""
    slots, halves, groups, widths, sizes = zip(*planes, strict=True)
    if not (0 <= min(slots + groups) and max(slots + groups) < 1 << 16 and set(halves) <= _HALVES):
        raise InvalidArgument("planes: slot and group must lie in 0 .. 65535, and half must be K, V or OPAQUE")
    if not (1 <= min(widths) and max(widths) < 1 << 8 and 1 <= min(sizes)):
        raise InvalidArgument("planes: item_bytes must lie in 1 .. 255, and raw_bytes must be at least 1")
    if len(set(zip(slots, halves, groups, strict=True))) != len(planes):
        raise InvalidArgument("planes: a slot, half and group may be there once")


@lru_cache(maxsize=32)
def _checked(planes: tuple[PlaneId, ...]) -> None:
    """The same, once for all blocks of a spec."""
    _check_planes(planes)
