"""Rows: which policies and capacities, and what stands beside them."""

from collections.abc import Callable

import pytest

from cachestore.replay.alone import Alone
from cachestore.replay.comparing import compare, replays, spread
from cachestore.replay.through import Through
from cachestore.replay.trace import Trace

MEMORY = {"tiers": [{"name": "cpu", "capacity": "64MiB"}], "codecs": {"name": "raw"}}


def test_rows(traced: Callable[..., Trace]) -> None:
    trace = traced([1, 2], [1, 3], [1, 2])
    told: list[int] = []
    rows = list(compare(trace, ["lru"], [2, 3], Alone(), told.append))
    assert [(row.capacity, row.policy) for row in rows] == [(2, "lru"), (3, "lru")]
    assert [(row.hit_rate, row.lru, row.optimum, row.infinite) for row in rows] == [
        (2 / 6, 2 / 6, 3 / 6, 3 / 6), (3 / 6, 3 / 6, 3 / 6, 3 / 6),
    ]  # fmt: skip
    assert [row.gap for row in rows] == [0.0, None] and all(row.tiers == {} for row in rows)
    assert sum(told) == replays(["lru"], [2, 3], Alone()) * trace.blocks


@pytest.mark.parametrize("cold", [0, 1])
def test_rows_of_a_store(traced: Callable[..., Trace], cold: int) -> None:
    """LRU is replayed beside it, alone; with a second tier there is no gap to speak of."""
    trace, told = traced([1, 2], [1, 3], [1, 2]), list[int]()
    through = Through({**MEMORY, "tiers": [{"name": "cpu", "capacity": 1 << 20}, {"name": "redis"}][: 1 + cold]}, 64)
    (row,) = compare(trace, ["lru"], [2], through, told.append)
    assert row.lru == 2 / 6 and row.optimum == row.infinite == 3 / 6
    assert (row.hit_rate, row.gap) == ((3 / 6, None) if cold else (2 / 6, 0.0))
    assert sum(row.tiers.values()) == row.hit_rate and len(row.tiers) == 1 + cold
    assert sum(told) == replays(["lru"], [2], through) * trace.blocks == 12


def test_capacities_are_spread_evenly(conversations: Trace, traced: Callable[..., Trace]) -> None:
    sizes = spread(conversations, 5)
    assert len(sizes) == 5 and sizes[-1] == conversations.nodes and sizes[0] == round(conversations.nodes / 200)
    assert sizes[2] ** 2 == pytest.approx(sizes[0] * sizes[-1], rel=0.3)
    assert spread(traced([1]), 5) == [1]
