"""The optimum, against every choice that there is."""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.replay.trace import Trace
from cachestore.replay.yardsticks import infinite, optimum

WALKS = st.lists(st.lists(st.integers(0, 1), max_size=3), min_size=1, max_size=7).filter(any)


def tried(trace: Trace, capacity: int) -> int:
    """The most hits of all caches that give up leaves only, found by following each of them."""
    parents = {node: parent for path in trace.requests for parent, node in zip((None, *path), path, strict=False)}

    def contents(have: frozenset[int]) -> Iterator[frozenset[int]]:
        for size in range(min(capacity, len(have)) + 1):
            for chosen in map(frozenset, combinations(sorted(have), size)):
                if all(parents[node] is None or parents[node] in chosen for node in chosen):
                    yield chosen

    best = {frozenset[int](): 0}
    for path in trace.requests:
        after: dict[frozenset[int], int] = {}
        for cache, hits in best.items():
            found = next((index for index, node in enumerate(path) if node not in cache), len(path))
            for left in contents(cache | frozenset(path)):
                after[left] = max(after.get(left, 0), hits + found)
        best = after
    return max(best.values())


@pytest.mark.parametrize(
    ("requests", "capacity", "hits"),
    [
        ([[1], [2], [1]], 1, 1),
        ([[1, 2], [1, 3], [1, 2]], 2, 3),
        ([[1, 2, 3], [1, 2, 3]], 2, 2),
        # one of the two has to go, and the one that is used sooner is kept
        ([[1], [2], [1], [2]], 1, 1),
        ([[1], [2], [1], [2]], 2, 2),
        ([[1, 2, 3], [4, 5, 6], [4, 5, 6], [1, 2, 3]], 3, 3),
        ([[1, 2, 3], [4, 5, 6], [4, 5, 6], [1, 2, 3]], 4, 4),
    ],
)
def test_by_hand(traced: Callable[..., Trace], requests: Sequence[Sequence[int]], capacity: int, hits: int) -> None:
    trace = traced(*requests)
    assert optimum(trace, capacity) == tried(trace, capacity) == hits


@given(walks=WALKS, capacity=st.integers(1, 5))
def test_no_choice_of_leaves_hits_more(
    grown: Callable[..., Trace], walks: Sequence[Sequence[int]], capacity: int
) -> None:
    trace = grown(walks)
    assert optimum(trace, capacity) == tried(trace, capacity)


def test_with_room_for_all_it_is_the_infinite_cache(conversations: Trace) -> None:
    assert optimum(conversations, conversations.nodes) == infinite(conversations)
    assert infinite(conversations) == conversations.blocks - len({n for path in conversations.requests for n in path})
