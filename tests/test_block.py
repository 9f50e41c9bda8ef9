"""Specs, planes, parts and blocks: their order, their sizes, and what they refuse."""

import sys
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from cachestore.block import Attention, Block, BlockSpec, Half, OpaqueSpec, Part, PlaneId, Slot, Views, covered
from cachestore.errors import InvalidArgument, UnsupportedModel
from cachestore.store.base import BlockPlan

SPEC = BlockSpec("m", "r", "bfloat16", (Slot(4, 16, 8), Slot(2, 32, 0)), head_groups=2, block_tokens=8)
KEY = bytes(32)


def test_planes_are_in_canonical_order_and_of_canonical_size() -> None:
    assert [plane[:3] for plane in SPEC.planes()] == [
        (0, Half.K, 0),
        (0, Half.K, 1),
        (0, Half.V, 0),
        (0, Half.V, 1),
        (1, Half.K, 0),
        (1, Half.K, 1),
    ]
    assert [plane.raw_bytes for plane in SPEC.planes()] == [512, 512, 256, 256, 512, 512]
    assert [plane.raw_bytes for plane in SPEC.planes(1)] == [64, 64, 32, 32, 64, 64]
    assert {plane.item_bytes for plane in SPEC.planes()} == {2}
    assert {plane.item_bytes for plane in replace(SPEC, dtype="float8_e5m2").planes()} == {1}


@pytest.mark.parametrize("tokens", [0, -1, 9])
def test_a_block_holds_one_to_all_of_its_tokens(tokens: int) -> None:
    with pytest.raises(InvalidArgument, match="1 to 8 tokens"):
        SPEC.planes(tokens)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": ""}, "model"),
        ({"revision": ""}, "revision"),
        ({"dtype": "float64"}, "bfloat16"),
        ({"head_groups": 3}, "head_groups"),
        ({"head_groups": 4}, "slot 1"),
        ({"head_groups": 0}, "head_groups"),
        ({"block_tokens": 0}, "block_tokens"),
    ],
)
def test_specs_that_cannot_be_are_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidArgument, match=word):
        replace(SPEC, **change)


def test_a_model_without_kv_is_not_supported() -> None:
    with pytest.raises(UnsupportedModel):
        replace(SPEC, slots=())


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 8, 8),
        (1, 0, 8),
        (1, 8, -1),
        (1, 8, 8, Attention.FULL, 16),
        (1, 8, 8, Attention.SLIDING),
        (1, 8, 8, Attention.CHUNKED, -16),
    ],
)
def test_slots_that_cannot_be_are_refused(arguments: Any) -> None:
    with pytest.raises(InvalidArgument, match="slot"):
        Slot(*arguments)


@pytest.mark.parametrize(
    "change", [{"rank": 2}, {"rank": -1}, {"layout": ""}, {"engine": ""}, {"hash_algorithm": "md5"}]
)
def test_opaque_specs_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    spec = OpaqueSpec("engine", "1", "m", "r", "bfloat16", "pages", 0, 2, "sha256")
    assert spec.planes(4096) == (PlaneId(0, Half.OPAQUE, 0, 2, 4096),)
    with pytest.raises(InvalidArgument):
        replace(spec, **change)


def test_a_part_holds_the_planes_it_names() -> None:
    places = [plane[:3] for plane in SPEC.planes()]
    assert [place for place in places if Part().holds(*place)] == places
    keys_of_first = Part(slots=range(0, 1), halves=frozenset({Half.K}))
    assert [place for place in places if keys_of_first.holds(*place)] == places[:2]
    assert [place for place in places if Part(groups=range(1, 2)).holds(*place)] == places[1::2]
    assert not any(Part(slots=range(7, 9)).holds(*place) for place in places)


@pytest.mark.parametrize("chosen", [range(0), range(0, 4, 2), range(-1, 2), range(3, 1), range(3, 0, -1)])
def test_parts_that_cannot_be_are_refused(chosen: range) -> None:
    for name in ("slots", "groups"):
        with pytest.raises(InvalidArgument, match=name):
            replace(Part(), **cast(Any, {name: chosen}))


def test_a_block_has_the_bytes_of_its_planes() -> None:
    data = [np.zeros(plane.raw_bytes, dtype=np.uint8) for plane in SPEC.planes()]
    assert Block(KEY, 8, SPEC.planes(), data).token_count == 8
    for wrong in (data[:-1], [*data[:-1], data[-1][:-1]], [*data, data[0]]):
        with pytest.raises(InvalidArgument):
            Block(KEY, 8, SPEC.planes(), wrong)


def test_planes_that_bytes_cover_exactly() -> None:
    planes = SPEC.planes()
    sizes = [plane.raw_bytes for plane in planes]
    for first in range(len(planes)):
        for last in range(first, len(planes)):
            nbytes = sum(sizes[first : last + 1])
            assert covered(planes, first, nbytes) == range(first, last + 1)
            assert not covered(planes, first, nbytes - 1)
    assert not covered(planes, 0, 0) and not covered(planes, 0, sum(sizes) + 1) and not covered(planes, 5, sum(sizes))


def test_views_are_places_in_one_buffer() -> None:
    whole = np.arange(10, dtype=np.uint8)
    views = Views(whole, (slice(2, 5), slice(0, 2), slice(5, 10)))
    assert [view.tolist() for view in views] == [[2, 3, 4], [0, 1], [5, 6, 7, 8, 9]]
    assert views[-1].tolist() == [5, 6, 7, 8, 9] and [len(view) for view in views[1:]] == [2, 5]
    assert len(views) == 3 and all(np.shares_memory(view, whole) for view in views)
    with pytest.raises(IndexError):
        views[3]


PLANE = PlaneId(0, Half.K, 0, 2, 64)


def test_a_plan_is_what_a_header_can_say() -> None:
    most = (PlaneId(65535, Half.V, 65535, 255, 64), PLANE)
    assert BlockPlan(KEY, 1, most).raw_bytes == 128


@pytest.mark.parametrize(
    "planes",
    [
        (),
        (PLANE, PLANE),
        (PLANE, PLANE._replace(raw_bytes=128)),
        (PLANE._replace(slot=65536),),
        (PLANE._replace(slot=-1),),
        (PLANE._replace(group=65536),),
        (PlaneId(0, cast(Half, 3), 0, 2, 64),),
        (PLANE._replace(item_bytes=0),),
        (PLANE._replace(item_bytes=256),),
        (PLANE._replace(raw_bytes=0),),
        (PLANE._replace(raw_bytes=-64),),
    ],
)
def test_plans_that_no_header_can_say_are_refused(planes: Any) -> None:
    with pytest.raises(InvalidArgument, match="plane"):
        BlockPlan(KEY, 8, planes)


@pytest.mark.parametrize("count", [0, -1, 1 << 32])
def test_a_plan_has_tokens(count: int) -> None:
    with pytest.raises(InvalidArgument, match="token"):
        BlockPlan(KEY, count, (PLANE,))


def test_a_plan_of_part_of_a_token_is_refused() -> None:
    count: Any = 1.5
    with pytest.raises(InvalidArgument, match="token_count must be a whole number"):
        BlockPlan(KEY, count, (PLANE,))


def test_a_plan_of_more_planes_than_a_spec_has_is_not_remembered() -> None:
    planes = tuple(PLANE._replace(slot=slot) for slot in range(4096))
    held = sys.getrefcount(planes)
    BlockPlan(KEY, 1, planes)
    assert sys.getrefcount(planes) == held
