"""The fast check of memory agrees with what becomes of it step by step."""

from hypothesis import given
from hypothesis import strategies as st

from cachestore.scheduling.base import Demand
from cachestore.scheduling.memory import by_end, peak

demands = st.lists(st.builds(Demand, st.integers(), st.just(0.0), st.integers(0, 80), st.integers(1, 60)), max_size=12)


def step_by_step(ahead: list[Demand], page_tokens: int) -> int:
    """The most pages held in any coming step, by looking at each."""
    last = max((demand.remaining for demand in ahead), default=0)
    steps = [[one.held + step for one in ahead if one.remaining >= step] for step in range(1, last + 1)]
    return max((sum(-(-tokens // page_tokens) for tokens in step) for step in steps), default=0)


@given(demands, st.integers(1, 20))
def test_the_peak_is_that_of_every_step(ahead: list[Demand], page_tokens: int) -> None:
    assert peak(by_end(ahead), page_tokens) == step_by_step(ahead, page_tokens)


def test_memory_that_is_freed_in_time_counts_once() -> None:
    first, second = Demand("first", 0, 5, 2), Demand("second", 0, 1, 10)
    assert peak(by_end([first, second]), 1) == 11 == peak([second], 1)
    assert peak(by_end([first, second._replace(held=3)]), 1) == 13
    assert peak(by_end([first._replace(remaining=8), second]), 1) == 5 + 8 + 1 + 8
