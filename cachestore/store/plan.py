"""What a put means to write, checked once for all blocks that are alike."""

from dataclasses import dataclass
from functools import lru_cache

from cachestore.block import Half, PlaneId
from cachestore.errors import InvalidArgument
from cachestore.hashing import KEY_BYTES
from cachestore.plane_table import MOST_PLANES_KNOWN
from cachestore.seal import MAX_PLANES

_HALVES = frozenset(Half)


@dataclass(frozen=True)
class BlockPlan:
    """One block of a put: identity and planes. `short` marks the short last block of a chain."""

    key: bytes
    token_count: int
    planes: tuple[PlaneId, ...]
    short: bool = False

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise InvalidArgument(f"key must be {KEY_BYTES} bytes, got {len(self.key)}")
        # numpy would cut a fraction off, and the block say other tokens than its plan
        if not isinstance(self.token_count, int):
            raise InvalidArgument(f"token_count must be a whole number, got {self.token_count!r}")
        if not 1 <= self.token_count < 1 << 32 or not 1 <= len(self.planes) <= MAX_PLANES:
            raise InvalidArgument(f"a block needs at least one token and 1 to {MAX_PLANES} planes")
        # a client may name any number of planes: what is remembered must stay small
        (_checked if len(self.planes) <= MOST_PLANES_KNOWN else _check_planes)(self.planes)

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
