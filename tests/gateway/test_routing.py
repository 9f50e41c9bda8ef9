"""Who is chosen, from what is known of the workers."""

from collections import Counter

import pytest

from gateway.routing.base import Candidate, Question, Routing
from gateway.routing.least_loaded import LeastLoaded
from gateway.routing.prefix_load import PrefixLoad
from gateway.routing.sticky import Sticky

NAMES = [f"decode-{number}" for number in range(5)]
ASKED = Question(10, b"start")


def idle(names: list[str] = NAMES) -> list[Candidate]:
    return [Candidate(name, 0) for name in names]


def starts(count: int) -> list[Question]:
    return [Question(10, number.to_bytes(4, "big")) for number in range(count)]


@pytest.mark.parametrize("routing", [Sticky(), PrefixLoad(), LeastLoaded()])
def test_equal_beginnings_meet_and_different_ones_spread(routing: Routing) -> None:
    chosen = [routing.choose(idle(), question).name for question in starts(500)]
    assert chosen == [routing.choose(idle()[::-1], question).name for question in starts(500)]
    assert min(Counter(chosen).values()) > 50 and len(set(chosen)) == len(NAMES)


@pytest.mark.parametrize("routing", [Sticky(), PrefixLoad()])
def test_a_worker_that_goes_moves_only_its_own(routing: Routing) -> None:
    for question in starts(200):
        before = routing.choose(idle(), question).name
        after = routing.choose(idle(NAMES[:-1]), question).name
        assert after == before or before == NAMES[-1]


def test_the_least_loaded_is_the_least_loaded() -> None:
    candidates = [Candidate("a", 3, stored=10), Candidate("b", 1), Candidate("c", 2, sent=10)]
    assert LeastLoaded().choose(candidates, ASKED).name == "b"


@pytest.mark.parametrize("known", [{"stored": 8}, {"sent": 8}])
def test_the_longest_prefix_wins_where_queues_are_alike(known: dict[str, int]) -> None:
    candidates = [Candidate("a", 1), Candidate("b", 1, **known), Candidate("c", 1, stored=2, sent=3)]
    assert PrefixLoad().choose(candidates, ASKED).name == "b"


def test_weights_decide_between_prefix_and_queue() -> None:
    candidates = [Candidate("near", 3, stored=10), Candidate("idle", 0), Candidate("other", 3)]
    assert PrefixLoad(prefix=1, load=0.1).choose(candidates, ASKED).name == "near"
    assert PrefixLoad(prefix=1, load=5).choose(candidates, ASKED).name == "idle"
    assert PrefixLoad(prefix=0, load=1).choose(candidates, ASKED).name == "idle"


def test_a_hot_worker_is_not_chosen_for_its_prefix() -> None:
    crowd = [Candidate(name, 1) for name in NAMES]
    warm = Candidate("warm", 3, stored=10)
    assert PrefixLoad(load=0.1, hot=4).choose([*crowd, warm], ASKED) is warm
    hot = Candidate("hot", 30, stored=10)
    assert PrefixLoad(load=0.1, hot=4).choose([*crowd, hot], ASKED) is not hot


def test_one_popular_prompt_spreads() -> None:
    """Whoever computed it has it; without protection everybody would go there."""
    loads = dict.fromkeys(NAMES, 0)
    held: set[str] = set()
    for _ in range(100):
        candidates = [Candidate(name, load, sent=10 * (name in held)) for name, load in loads.items()]
        chosen = PrefixLoad(load=0.01, hot=2).choose(candidates, ASKED).name
        loads[chosen] += 1
        held.add(chosen)
    assert max(loads.values()) <= 2 * (100 / len(NAMES) + 1) and sum(load > 0 for load in loads.values()) >= 3


def test_a_prompt_without_a_full_block_is_routed_too() -> None:
    assert PrefixLoad().choose([Candidate("a", 5), Candidate("b", 0)], Question(0, b"")).name == "b"
