"""The plane table of a block: what each of its planes is, how and where it is stored.

A row, little-endian: slot u16, group u16, half u8, codec u8, item_bytes u8, zero u8, then u64 each: offset in the
payload, stored bytes, raw bytes, xxh3-64 of stored bytes, xxh3-64 of raw bytes. The rows without their checksums are
its **places**. They are the same for most blocks of a spec, so what follows from them is worked out once for many.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cachestore.block import Half, Part, PlaneId

TABLE = np.dtype(
    [
        ("slot", "<u2"),
        ("group", "<u2"),
        ("half", "u1"),
        ("codec", "u1"),
        ("item_bytes", "u1"),
        ("zero", "u1"),
        ("offset", "<u8"),
        ("stored_bytes", "<u8"),
        ("raw_bytes", "<u8"),
        ("stored_checksum", "<u8"),
        ("raw_checksum", "<u8"),
    ]
)
PLACES = np.dtype(TABLE.descr[:9])
"""A row without its checksums."""

WORD = 8
"""Bytes of what many tables at once are compared and written by."""

ROW_WORDS, STORED_SUM = TABLE.itemsize // WORD, PLACES.itemsize // WORD
RAW_BYTES, RAW_SUM = STORED_SUM - 1, STORED_SUM + 1
"""The words of a row, and which of them these are."""

_PLACE = np.dtype(f"V{PLACES.itemsize}")
_HALVES = tuple(Half)

KNOWN_TABLES = 64
"""How many tables are remembered, checksums aside: all raw blocks of a spec have the same, its tails one a length."""

MOST_PLANES_KNOWN = 2048
"""Longer tables are worked out anew: remembered ones of many planes would fill memory."""

_Result = TypeVar("_Result")


def remembered(follows: Callable[[bytes, Any], _Result]) -> Callable[[bytes, Any], _Result]:
    """Remembers what follows from `places_of` and one thing more."""
    known = lru_cache(maxsize=KNOWN_TABLES)(follows)
    longest = MOST_PLANES_KNOWN * PLACES.itemsize

    @wraps(follows)
    def call(places: bytes, more: Any) -> _Result:
        return (known if len(places) <= longest else follows)(places, more)

    return call


class Stored(NamedTuple):
    """How and where one plane is stored, as the plane table says."""

    codec: int
    offset: int
    stored_bytes: int
    stored_checksum: int
    raw_checksum: int


def table_of(planes: Sequence[PlaneId], stored: Sequence[Stored] = ()) -> NDArray[np.void]:
    """The plane table of these planes; without `stored`, which goes with them in order, of nothing stored yet."""
    # a client may name any number of planes: what is remembered must stay small
    table = _blank(tuple(planes)).copy() if len(planes) <= MOST_PLANES_KNOWN else _fresh(planes)
    for name, column in zip(Stored._fields, zip(*stored, strict=True), strict=False):
        table[name] = np.array(column, dtype=TABLE[name])
    return table


@lru_cache(maxsize=KNOWN_TABLES)
def _blank(planes: tuple[PlaneId, ...]) -> NDArray[np.void]:
    return _fresh(planes)


def _fresh(planes: Sequence[PlaneId]) -> NDArray[np.void]:
    table = np.zeros(len(planes), dtype=TABLE)
    for name, column in zip(PlaneId._fields, zip(*planes, strict=True), strict=False):
        table[name] = np.array(column, dtype=TABLE[name])
    return table


def places_of(table: NDArray[np.void]) -> bytes:
    """The rows of a table without their checksums, as `PLACES`."""
    places: Any = np.ndarray(len(table), _PLACE, table, 0, (TABLE.itemsize,))
    packed: bytes = places.tobytes()
    return packed


@remembered
def _planes(places: bytes, _: None) -> tuple[PlaneId, ...]:
    table = np.frombuffer(places, dtype=PLACES)
    columns: list[list[Any]] = [table[name].tolist() for name in PlaneId._fields]
    columns[1] = [_HALVES[half] for half in columns[1]]
    return tuple(map(PlaneId._make, zip(*columns, strict=True)))


def planes_at(places: bytes, chosen: Sequence[int]) -> tuple[PlaneId, ...]:
    """The planes at these indices of a table given as `places_of` does."""
    planes = _planes(places, None)
    return planes if len(chosen) == len(planes) else tuple(planes[index] for index in chosen)


@remembered
def selected(places: bytes, part: Part) -> tuple[int, ...]:
    """The indices of the planes of `part` in a table given as `places_of` does."""
    return tuple(index for index, plane in enumerate(_planes(places, None)) if part.holds(*plane[:3]))
