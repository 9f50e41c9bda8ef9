"""Which sequences start, and which are preempted."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachestore.config import build_named
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.scheduling import SCHEDULINGS
from cachestore.scheduling.base import Demand, Scheduling
from cachestore.scheduling.compose import compose
from cachestore.scheduling.fcfs import Fcfs
from cachestore.scheduling.mc_sf import McSf
from cachestore.scheduling.predictor import Request
from cachestore.scheduling.predictor_exact import Exact
from cachestore.scheduling.predictor_history import History
from cachestore.scheduling.simulation import Arrival, simulate
from cachestore.testing import SchedulingTests
from tests.scheduling.test_memory import step_by_step

POLICIES: list[Scheduling] = [Fcfs(), McSf(ageing=0), McSf(ageing=2)]
RANKS: dict[Scheduling, Callable[[Demand], Any]] = {
    POLICIES[0]: lambda demand: demand.arrived,
    POLICIES[1]: lambda demand: (demand.remaining, demand.held),
    POLICIES[2]: lambda demand: (demand.remaining + 2 * demand.arrived, demand.held),
}


class TestFcfs(SchedulingTests):
    policy = Fcfs()


class TestMcSf(SchedulingTests):
    policy = McSf(ageing=0)


class TestMcSfWithAgeing(SchedulingTests):
    policy = McSf()


def arrivals_of(figures: list[tuple[int, int, int, int]], budget: int) -> list[Arrival]:
    """Requests from (steps since the last, prompt, output, expected), cut to what fits the budget."""
    arrivals, step = [], 0
    for since, prompt, output, expected in figures:
        step, prompt = step + since, min(prompt, budget - 1)
        most = budget - prompt
        arrivals.append(Arrival(step, Request("default", prompt, most, min(expected, most)), min(output, most)))
    return arrivals


def requests(most: int = 20) -> st.SearchStrategy[list[tuple[int, int, int, int]]]:
    return st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 30), st.integers(1, 40), st.integers(1, 40)),
        min_size=1,
        max_size=most,
    )


@given(
    policy=st.sampled_from(POLICIES),
    page_tokens=st.integers(1, 8),
    budget=st.integers(1, 40),
    waiting=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.integers(1, 50)), max_size=25),
    running=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.integers(1, 50)), max_size=5),
)
def test_a_plan_is_that_of_whoever_looks_at_every_step_for_every_sequence(
    policy: Scheduling,
    page_tokens: int,
    budget: int,
    waiting: list[tuple[int, int, int]],
    running: list[tuple[int, int, int]],
) -> None:
    room = budget * page_tokens
    ahead = [Demand(number, *figures) for number, figures in enumerate(waiting)]
    active = [Demand(-1 - number, *figures) for number, figures in enumerate(running) if figures[1] < room]
    queue = policy.start(page_tokens)
    for demand in ahead:
        queue.add(demand)
    plan = queue.plan(active, budget)

    rank, preempted = RANKS[policy], list[Demand]()
    while sum(-(-(one.held + 1) // page_tokens) for one in active if one not in preempted) > budget:
        stay = [one for one in active if one not in preempted]
        worst = max(rank(one) for one in stay)
        preempted.append([one for one in stay if rank(one) == worst][-1])
    assert plan.preempt == [one.name for one in preempted]

    def bounded(demands: list[Demand]) -> list[Demand]:
        return [one._replace(remaining=min(one.remaining, room - one.held)) for one in demands]

    started = list[Demand]()
    for demand in sorted((one for one in ahead if one.held < room), key=rank):
        if preempted or step_by_step(bounded([*active, *started, demand]), page_tokens) > budget:
            break
        started.append(demand)
    assert plan.start == [one.name for one in started]
    assert len(queue) == len(ahead) - len(plan.start) - len(plan.refuse)
    assert {ahead[int(str(name))].held >= room for name in plan.refuse} <= {True}


@settings(deadline=None)
@given(st.sampled_from(POLICIES), requests(), st.integers(2, 60))
def test_nobody_is_preempted_while_predictions_hold(
    policy: Scheduling, figures: list[tuple[int, int, int, int]], budget: int
) -> None:
    arrivals = arrivals_of([(since, prompt, output, output) for since, prompt, output, _ in figures], budget)
    outcome = simulate(policy.start(), arrivals, budget)
    assert max(outcome.pages) <= budget and outcome.preempted == 0 and None not in outcome.latency


@settings(deadline=None)
@given(st.sampled_from(POLICIES), requests(), st.integers(2, 60), st.integers(1, 8))
def test_wrong_predictions_cost_no_memory_and_every_step_makes_progress(
    policy: Scheduling, figures: list[tuple[int, int, int, int]], pages: int, page_tokens: int
) -> None:
    arrivals = arrivals_of(figures, pages * page_tokens)
    outcome = simulate(policy.start(page_tokens), arrivals, pages, page_tokens)
    assert max(outcome.pages) <= pages and None not in outcome.latency
    # in each step at least one sequence takes a token that it keeps
    assert len(outcome.pages) <= sum(arrival.output for arrival in arrivals)
    assert outcome.errors.outputs == len(arrivals)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.integers(1, 10), st.integers(16, 60))
def test_of_equal_requests_no_schedule_is_better(count: int, prompt: int, output: int, budget: int) -> None:
    arrivals = [Arrival(0, Request("default", prompt, output, output), output)] * count
    outcomes = [simulate(policy.start(), arrivals, budget) for policy in POLICIES]
    assert len({outcome.total for outcome in outcomes}) == 1


def test_fcfs_lets_nobody_overtake() -> None:
    queue = Fcfs().start()
    for name, held in [("first", 50), ("second", 60), ("third", 1)]:
        queue.add(Demand(name, 0, held, 10))
    assert queue.plan([], 100).start == ["first"]


def test_shortest_first_starts_the_shortest_and_of_these_the_smallest() -> None:
    queue = McSf(ageing=0).start()
    for name, held, remaining in [("long", 1, 30), ("short", 5, 10), ("small", 2, 10)]:
        queue.add(Demand(name, 0, held, remaining))
    assert queue.plan([], 1000).start == ["small", "short", "long"]


@pytest.mark.parametrize(("policy", "gone"), [(Fcfs(), "late"), (McSf(ageing=0), "long")])
def test_whom_a_wrong_prediction_costs_its_place(policy: Scheduling, gone: str) -> None:
    running = [Demand("long", 0, 50, 30), Demand("late", 1, 50, 3)]
    assert policy.start().plan(running, 100) == ([], [gone], [])


def stream_of_short_ones(ageing: float) -> int:
    """The latency of a long request among short ones that never let up."""
    short = [Arrival(step, Request("default", 20, 5, 5), 5) for step in range(2000) for _ in range(2)]
    long = Arrival(10, Request("default", 20, 80, 80), 80)
    latency = simulate(McSf(ageing).start(), [*short[:20], long, *short[20:]], 110).latency[20]
    assert latency is not None
    return latency


def test_a_long_one_starves_without_ageing_and_not_with_it() -> None:
    assert stream_of_short_ones(0) > 2000
    # it is overtaken by those that came up to (80 - 5) / ageing later, and waits for these
    assert stream_of_short_ones(1) < stream_of_short_ones(0.25) < 2000


@pytest.mark.parametrize("ageing", [0.5, 2.0])
def test_ageing_bounds_who_overtakes(ageing: float) -> None:
    queue = McSf(ageing).start()
    queue.add(Demand("long", 0, 1, 50))
    for later in range(1, 200):
        queue.add(Demand(later, later, 1, 10))
    order = queue.plan([], 10**6).start
    assert order[: order.index("long") + 1] == [*range(1, order.index("long") + 1), "long"]
    # of two that come out equal the one that was added first goes first
    assert order.index("long") == (50 - 10) / ageing - 1


@contextmanager
def lines_counted() -> Iterator[list[int]]:
    """How many lines of scheduling are run: in the one element of the list."""
    folder, counted, before = str(Path(sys.modules[Fcfs.__module__].__file__ or "").parent), [0], sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(folder):
            return None
        counted[0] += event == "line"
        return trace

    sys.settrace(trace)
    try:
        yield counted
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_cost_of_a_plan_grows_little_faster_than_what_it_starts(policy: Scheduling) -> None:
    def cost(many: int) -> int:
        queue = policy.start(16)
        for name in range(many):
            queue.add(Demand(name, name, 100 + name * 7919 % 900, 1 + name * 104729 % 500))
        with lines_counted() as counted:
            started = queue.plan([], 10 * many).start
        assert many // 20 < len(started) < many
        return counted[0]

    # n log n: 8 times as many cost 8 * log(8n)/log(n) < 12 times as much, where n squared would be 64
    assert cost(8000) < 14 * cost(1000)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_waits_behind_costs_nothing(policy: Scheduling) -> None:
    def cost(many: int) -> int:
        queue = policy.start()
        for name in range(many):
            queue.add(Demand(name, name, 100, 10))
        running = [Demand(-1 - name, 0, 100, 10) for name in range(10)]
        with lines_counted() as counted:
            assert queue.plan(running, 1100).start == []
        return counted[0]

    assert cost(10_000) == cost(100)


def test_removed_ones_are_forgotten() -> None:
    queue = McSf().start()
    queue.add(Demand("last", 1, 1, 100))
    for name in range(10_000):
        queue.add(Demand(name, 0, 1, 1))
        queue.remove(name)
    with lines_counted() as counted:
        assert queue.plan([], 1000).start == ["last"]
    assert counted[0] < 500 and len(queue) == 0


def test_pages_need_tokens() -> None:
    with pytest.raises(InvalidArgument, match="page_tokens"):
        Fcfs().start(0)


@pytest.mark.parametrize("ageing", [-1, float("nan"), float("inf")])
def test_a_setting_out_of_range_is_named(ageing: float) -> None:
    with pytest.raises(ConfigError, match=r"scheduling.*ageing"):
        build_named(SCHEDULINGS, {"name": "mc_sf", "ageing": ageing}, "scheduling")


def test_names() -> None:
    assert {name: SCHEDULINGS.load(name) for name in SCHEDULINGS.names()} == {"fcfs": Fcfs, "mc_sf": McSf}


def test_the_section_names_a_policy_and_a_predictor() -> None:
    assert compose() == (McSf(), History())
    assert compose({"name": "fcfs", "predictor": {"name": "exact"}}) == (Fcfs(), Exact())
    assert compose({"name": "mc_sf", "ageing": 0, "predictor": {"name": "history", "quantile": 0.5}}) == (
        McSf(ageing=0),
        History(quantile=0.5),
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "shortest"}, r"scheduling\.name.*mc_sf"),
        ({"name": "fcfs", "ageing": 1}, r"scheduling\.ageing"),
        ({"name": "fcfs", "predictor": "history"}, r"\[scheduling\.predictor\]"),
        ({"name": "fcfs", "predictor": {"name": "histori"}}, r"scheduling\.predictor\.name.*'history'"),
        (
            {"name": "fcfs", "predictor": {"name": "history", "quantil": 1}},
            r"scheduling\.predictor\.quantil.*'quantile'",
        ),
    ],
)
def test_a_section_that_cannot_work_says_which_key(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(table)
