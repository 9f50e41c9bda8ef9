"""The policy alone: hit rates counted by hand, and what holds for every policy and trace."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.eviction import EVICTIONS
from cachestore.replay.alone import Alone
from cachestore.replay.base import BATCH
from cachestore.replay.trace import Trace
from cachestore.replay.yardsticks import infinite, optimum

WALKS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=12).filter(any)


def ignored(blocks: int) -> None:
    pass


@pytest.mark.parametrize(
    ("requests", "capacity", "hits"),
    [
        # block 2 leaves for 3, as block 1 is in use
        ([[1, 2], [1, 3], [1, 2]], 2, 2),
        ([[1, 2], [1, 3], [1, 2]], 3, 3),
        ([[1], [2], [1]], 1, 0),
        # what is longer than the capacity keeps its beginning
        ([[1, 2, 3], [1, 2, 3]], 2, 2),
        ([[1, 2, 3], [1, 4], [1, 2, 3]], 2, 2),
        # a chain leaves from its end: 3, then 2
        ([[1, 2, 3], [4, 5], [1, 2, 3]], 4, 2),
        ([[1, 2, 3], [4, 5], [1, 2, 3]], 3, 1),
        # read last, 1 to 3 outlive 4 and 5
        ([[4, 5], [1, 2, 3], [6], [1, 2, 3], [4, 5]], 5, 4),
        ([[], [1], [], [1]], 1, 1),
    ],
)
def test_lru_by_hand(traced: Callable[..., Trace], requests: Sequence[Sequence[int]], capacity: int, hits: int) -> None:
    outcome = Alone()(traced(*requests), "lru", capacity, ignored)
    assert outcome.hits == hits and outcome.seconds > 0


@pytest.mark.parametrize("policy", EVICTIONS.names())
@given(walks=WALKS, capacity=st.integers(1, 8))
def test_no_policy_hits_more_than_the_optimum(
    grown: Callable[..., Trace], policy: str, walks: Sequence[Sequence[int]], capacity: int
) -> None:
    trace = grown(walks)
    hits = Alone()(trace, policy, capacity, ignored).hits
    assert 0 <= hits <= optimum(trace, capacity) <= infinite(trace)


@pytest.mark.parametrize("policy", EVICTIONS.names())
def test_with_room_for_all_nothing_leaves(conversations: Trace, policy: str) -> None:
    assert Alone()(conversations, policy, conversations.nodes, ignored).hits == infinite(conversations)
    assert Alone()(conversations, policy, conversations.nodes // 4, ignored).hits < infinite(conversations)


def test_it_tells_how_far_it_is(traced: Callable[..., Trace]) -> None:
    trace = traced(*[[1, 2, 3]] * (BATCH + 1))
    told: list[int] = []
    Alone()(trace, "lru", 3, told.append)
    assert told == [3 * BATCH, 3]


def test_the_configuration_s_settings_are_used(conversations: Trace) -> None:
    """They are checked as anywhere else, and only if it is this policy that the configuration names."""
    tables = {"eviction": {"name": "lru", "sise": 3}}
    with pytest.raises(Exception, match=r"eviction\.sise"):
        Alone(tables)(conversations, "lru", 10, ignored)
    other = {"eviction": {"name": "another", "sise": 3}}
    assert Alone(other)(conversations, "lru", 10, ignored).hits
