"""Wire messages to domain values and back: what a put speaks in. Checked as in `convert`."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, repeat
from operator import itemgetter
from struct import Struct
from typing import NamedTuple

from xxhash import xxh3_64

from cachestore.block import Half, PlaneId
from cachestore.errors import Aborted, InvalidArgument, Mismatch, TooLarge
from cachestore.hashing import KEY_BYTES
from cachestore.plane_table import MOST_PLANES_KNOWN
from cachestore.seal import MAX_PAYLOAD, MAX_PLANES
from cachestore.service.convert import MOST_KEYS, key, lifetime, seconds
from cachestore.service.words import DURABILITY, PUT_STATUS
from cachestore.store.base import BlockPlan, Durability, PutAnswer
from cachestore.store.joint import own_plans
from cachestore.wire import store_pb2 as wire

MOST_TOKENS = 1 << 20
KNOWN_LAYOUTS = 32
"""How many layouts are remembered: most puts of a spec have the same."""

MOST_PLANES = 1 << 22
"""Planes of all blocks of one put, which bounds the work that one small message can ask for."""


_PUT = Struct("<IQ")
_COUNT = Struct("<I")
_PLANE = Struct("<IIIIQ")
_BLOCK = Struct("<IIB")


class Reservation(NamedTuple):
    """What a Reserve asks for."""

    fingerprint: bytes
    plans: tuple[BlockPlan, ...]
    durability: Durability
    ttl: float | None
    after: bytes | None = None
    groups: range | None = None

    def own_plans(self) -> list[BlockPlan]:
        """What this put itself writes of each block."""
        return own_plans(self.plans, self.groups)


def layout(message: wire.Layout, field: str) -> tuple[PlaneId, ...]:
    """The planes of a block."""
    if len(message.planes) > MOST_PLANES_KNOWN:
        return _layout(message, field)
    return _known_layout(message.SerializeToString(), field)


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _known_layout(message: bytes, field: str) -> tuple[PlaneId, ...]:
    return _layout(wire.Layout.FromString(message), field)


def _layout(message: wire.Layout, field: str) -> tuple[PlaneId, ...]:
    if not 1 <= len(message.planes) <= MAX_PLANES:
        raise InvalidArgument(f"{field}.planes must hold 1 to {MAX_PLANES} planes, got {len(message.planes)}")
    planes = []
    for index, plane in enumerate(message.planes):
        at = f"{field}.planes[{index}]"
        if plane.slot >= MAX_PLANES or plane.group >= MAX_PLANES:
            raise InvalidArgument(f"{at}.slot and .group must be below {MAX_PLANES}, got {plane.slot}, {plane.group}")
        if plane.half not in tuple(Half):
            raise InvalidArgument(f"{at}.half = {plane.half} is unknown; use 0 (K), 1 (V) or 2 (opaque)")
        if not 1 <= plane.item_bytes <= 8:
            raise InvalidArgument(f"{at}.item_bytes must lie in 1 .. 8, got {plane.item_bytes}")
        if not 1 <= plane.raw_bytes <= MAX_PAYLOAD:
            raise InvalidArgument(f"{at}.raw_bytes must lie in 1 .. {MAX_PAYLOAD}, got {plane.raw_bytes}")
        planes.append(PlaneId(plane.slot, Half(plane.half), plane.group, plane.item_bytes, plane.raw_bytes))
    if len({plane[:3] for plane in planes}) != len(planes):
        raise InvalidArgument(f"{field}.planes must not name a (slot, half, group) twice")
    if (size := sum(plane.raw_bytes for plane in planes)) > MAX_PAYLOAD:
        raise TooLarge(f"{field}: a block holds at most {MAX_PAYLOAD} bytes, got {size}")
    return tuple(planes)


def layout_message(planes: tuple[PlaneId, ...]) -> wire.Layout:
    """The other way; what is answered is others' too."""
    return (_known_message if len(planes) <= MOST_PLANES_KNOWN else _layout_message)(planes)


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _known_message(planes: tuple[PlaneId, ...]) -> wire.Layout:
    return _layout_message(planes)


def _layout_message(planes: tuple[PlaneId, ...]) -> wire.Layout:
    return wire.Layout(
        planes=[
            wire.PlaneId(slot=p.slot, half=p.half, group=p.group, item_bytes=p.item_bytes, raw_bytes=p.raw_bytes)
            for p in planes
        ]
    )


def reservation(message: wire.Reserve) -> Reservation:
    """The put that a Reserve asks for."""
    if len(message.blocks) > MOST_KEYS:
        raise TooLarge(f"reserve.blocks may hold {MOST_KEYS} blocks, got {len(message.blocks)}; put in several calls")
    if sum(len(layout.planes) for layout in message.layouts) > MAX_PLANES:
        raise TooLarge(f"reserve.layouts may hold {MAX_PLANES} planes together; put in several calls")
    layouts = [layout(planes, f"reserve.layouts[{index}]") for index, planes in enumerate(message.layouts)]
    keys = [block.key for block in message.blocks]
    kinds = [(block.token_count, block.layout, block.short) for block in message.blocks]
    numbers = [number for _, number, _ in kinds]
    wrong = next((index for index, number in enumerate(numbers) if number >= len(layouts)), None)
    if wrong is not None:
        raise InvalidArgument(
            f"reserve.blocks[{wrong}].layout = {numbers[wrong]} names none of the {len(layouts)} layouts"
        )
    planes = [len(each) for each in layouts]
    if sum(planes[number] for number in numbers) > MOST_PLANES:
        raise TooLarge(f"reserve.blocks may have {MOST_PLANES} planes together; put in several calls")
    wrong = next((index for index, each in enumerate(keys) if len(each) != KEY_BYTES), None)
    if wrong is not None:
        key(keys[wrong], f"reserve.blocks[{wrong}].key")
    if len(set(keys)) != len(keys):
        raise InvalidArgument("reserve.blocks must not name a key twice")
    plans: list[BlockPlan] = []
    for (tokens, number, short), alike in groupby(kinds):
        first = len(plans)
        if not 1 <= tokens <= MOST_TOKENS:
            raise InvalidArgument(f"reserve.blocks[{first}].token_count must lie in 1 .. {MOST_TOKENS}, got {tokens}")
        plans += BlockPlan.alike(keys[first : first + len(list(alike))], tokens, layouts[number], short)
    durability = DURABILITY.word(message.durability)
    fingerprint = key(message.fingerprint, "reserve.fingerprint")
    after = key(message.after, "reserve.after") if message.after else None
    if message.first_group and not message.groups:
        raise InvalidArgument(f"reserve.first_group = {message.first_group} needs reserve.groups to say how many")
    groups = range(message.first_group, message.first_group + message.groups) if message.groups else None
    value = Reservation(fingerprint, tuple(plans), durability, seconds(message.ttl_ms), after, groups)
    if message.HasField("check"):
        if message.check != _check(value, message.durability, message.ttl_ms, layouts, kinds):
            raise Aborted("reserve.check: the reservation is not the one that was sent; put its blocks again")
    return value


def _check(
    value: Reservation,
    durability: int,
    ttl_ms: int,
    layouts: Iterable[tuple[PlaneId, ...]],
    kinds: Sequence[tuple[int, int, bool]],
) -> int:
    """What `Reserve.check` must be; the kind of each block is its tokens, the number of its layout, and `short`."""
    check = xxh3_64(value.fingerprint)
    check.update(_PUT.pack(durability, ttl_ms) + (value.after or b"") + _COUNT.pack(len(kinds)))
    check.update(b"".join([plan.key for plan in value.plans]))
    check.update(b"".join(_BLOCK.pack(*kind) * len(list(alike)) for kind, alike in groupby(kinds)))
    for planes in layouts:
        check.update((_known_bytes if len(planes) <= MOST_PLANES_KNOWN else _layout_bytes)(planes))
    return check.intdigest()


@lru_cache(maxsize=KNOWN_LAYOUTS)
def _known_bytes(planes: tuple[PlaneId, ...]) -> bytes:
    return _layout_bytes(planes)


def _layout_bytes(planes: tuple[PlaneId, ...]) -> bytes:
    return _COUNT.pack(len(planes)) + b"".join(_PLANE.pack(*plane) for plane in planes)


def reserve_message(value: Reservation) -> wire.Reserve:
    """The other way; blocks of equal planes share a layout."""
    layouts: dict[tuple[PlaneId, ...], int] = {}
    # by identity first: blocks share their planes, and to compare those costs more than all the rest
    known = {id(plan.planes): plan.planes for plan in value.plans}
    numbers = {same: layouts.setdefault(planes, len(layouts)) for same, planes in known.items()}
    durability, ttl_ms, groups = DURABILITY.number(value.durability), lifetime(value.ttl), value.groups or range(0)
    kinds = [(tokens, numbers[id(planes)], short) for _, tokens, planes, short in value.plans]
    check = _check(value, durability, ttl_ms, layouts, kinds)
    message = wire.Reserve(
        fingerprint=value.fingerprint, layouts=map(layout_message, layouts),
        durability=durability, ttl_ms=ttl_ms, after=value.after or b"", check=check,
        first_group=groups.start, groups=len(groups), alike=True,
    )  # fmt: skip
    for plan, (tokens, number, short) in zip(value.plans, kinds, strict=True):
        # a third of what it takes to make one and hand it over
        message.blocks.add(key=plan.key, token_count=tokens, layout=number, short=short)
    return message


def reserved_message(put: bytes, values: Iterable[PutAnswer], message: wire.Reserve) -> wire.WriteResponse:
    """What is answered to this Reserve."""
    return wire.WriteResponse(
        put=put, answers=answer_messages(values), first_group=message.first_group, groups=message.groups
    )


def reserved(value: Reservation, response: wire.WriteResponse) -> list[PutAnswer]:
    """The other way; Mismatch if what is reserved are other head groups than those asked for."""
    groups = value.groups or range(0)
    if (response.first_group, response.groups) != (groups.start, len(groups)):
        raise Mismatch(
            "groups: the store takes whole blocks alone, as those of an earlier release do; give it one of this "
            "release, or put whole blocks from one process"
        )
    return answers(response.answers)


def commit(message: wire.Commit, blocks: int) -> tuple[list[int], float]:
    """The blocks that a Commit names, of a put of `blocks` blocks, and the seconds of the lease it asks for."""
    chosen = list(message.blocks)
    if len(set(chosen)) != len(chosen):
        raise InvalidArgument("commit.blocks must not name a block twice")
    if chosen and max(chosen) >= blocks:
        raise InvalidArgument(f"commit.blocks: {max(chosen)} is none of the {blocks} blocks of this put")
    return chosen, seconds(message.lease_ms) or 0.0


def answers(messages: Iterable[wire.PutAnswer]) -> list[PutAnswer]:
    """What became of blocks of a put."""
    found: list[PutAnswer] = []
    for message in messages:
        if message.alike >= MOST_KEYS:
            raise InvalidArgument(f"answers.alike = {message.alike} is more than a put has blocks")
        numbers = range(message.block, message.block + 1 + message.alike)
        fields = zip(numbers, repeat(PUT_STATUS.word(message.status)), repeat(message.tier), strict=False)
        found += map(PutAnswer._make, fields)
    return found


def answer_messages(values: Iterable[PutAnswer], *, alike: bool = False) -> list[wire.PutAnswer]:
    """The other way; one for each block, unless one may be for all that are `alike` and follow each other."""
    found: list[wire.PutAnswer] = []
    for (status, tier), same in groupby(values, itemgetter(1, 2)):
        number, blocks = PUT_STATUS.number(status), [answer.block for answer in same]
        if alike and blocks == list(range(blocks[0], blocks[0] + len(blocks))):
            found.append(wire.PutAnswer(block=blocks[0], status=number, tier=tier, alike=len(blocks) - 1))
        else:
            found += [wire.PutAnswer(block=block, status=number, tier=tier) for block in blocks]
    return found
