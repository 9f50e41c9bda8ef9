"""What every scheduling policy and every predictor promises."""

from random import Random
from typing import ClassVar

import pytest

from cachestore.errors import InvalidArgument
from cachestore.scheduling.base import Demand, Scheduling
from cachestore.scheduling.predictor import Prediction, Request
from cachestore.scheduling.predictor_exact import Exact
from cachestore.scheduling.simulation import Arrival, simulate


def some_arrivals(random: Random, budget: int, wrong: bool) -> list[Arrival]:
    """Requests that all fit `budget` tokens alone; `wrong` if they are not as long as they say."""
    arrivals, step = [], 0
    for _ in range(random.randint(1, 40)):
        step += random.choice([0, 0, 1, 5, 60])
        prompt = random.randint(0, budget // 2)
        output = random.randint(1, budget - prompt)
        expected = random.randint(1, budget - prompt) if wrong else output
        arrivals.append(Arrival(step, Request("default", prompt, budget - prompt, expected), output))
    return arrivals


class SchedulingTests:
    """Subclasses say which policy it is, in the class variable `policy`."""

    policy: ClassVar[Scheduling]

    @pytest.mark.parametrize("page_tokens", [1, 16])
    @pytest.mark.parametrize("wrong", [False, True])
    @pytest.mark.parametrize("seed", range(10))
    def test_all_end_and_memory_never_exceeds_the_budget(self, seed: int, wrong: bool, page_tokens: int) -> None:
        random = Random(seed)
        budget = random.randint(2, 12)
        arrivals = some_arrivals(random, budget * page_tokens, wrong)
        outcome = simulate(self.policy.start(page_tokens), arrivals, budget, page_tokens, Exact().start())
        for arrival, latency in zip(arrivals, outcome.latency, strict=True):
            assert latency is not None and latency >= arrival.output
        assert max(outcome.pages) <= budget

    def test_what_it_does_depends_on_what_was_told_it_alone(self) -> None:
        arrivals = some_arrivals(Random(0), 100, True)
        assert simulate(self.policy.start(), arrivals, 100) == simulate(self.policy.start(), arrivals, 100)

    def test_who_starts_no_longer_waits(self) -> None:
        queue = self.policy.start()
        queue.add(Demand("first", 0, 3, 2))
        assert len(queue) == 1
        assert queue.plan([], 10) == (["first"], [], [])
        assert len(queue) == 0 and queue.plan([Demand("first", 0, 3, 2)], 10) == ([], [], [])

    def test_a_prediction_beyond_the_budget_runs_alone(self) -> None:
        queue = self.policy.start()
        queue.add(Demand("long", 0, 3, 1000))
        assert queue.plan([], 10).start == ["long"]
        queue.add(Demand("short", 1, 1, 1))
        queue.plan([Demand("long", 0, 3, 1000)], 10)
        assert queue.plan([Demand("long", 0, 8, 995)], 10).preempt == []

    def test_what_never_fits_is_refused_and_holds_up_nobody(self) -> None:
        queue = self.policy.start(page_tokens=4)
        queue.add(Demand("too large", 0, 40, 1))
        queue.add(Demand("fits", 1, 39, 1))
        refused = list[object]()
        started = list[object]()
        for _ in range(2):
            plan = queue.plan([], 10)
            refused += plan.refuse
            started += plan.start
        assert refused == ["too large"] and started == ["fits"] and len(queue) == 0

    def test_a_running_one_that_filled_the_budget_is_refused(self) -> None:
        assert self.policy.start().plan([Demand("large", 0, 10, 1)], 10) == ([], [], ["large"])

    def test_one_that_was_removed_does_not_start(self) -> None:
        queue = self.policy.start()
        for name in range(100):
            queue.add(Demand(name, name, 1, 1))
        for name in range(99):
            queue.remove(name)
        queue.remove("unknown")
        assert len(queue) == 1
        assert queue.plan([], 1000).start == [99]

    def test_one_that_comes_back_after_it_was_removed_asks_for_what_it_asks_now(self) -> None:
        queue = self.policy.start()
        queue.add(Demand("name", 0, 1, 1))
        queue.remove("name")
        queue.add(Demand("name", 0, 101, 500))
        assert queue.plan([], 100) == ([], [], ["name"]) and len(queue) == 0

    @pytest.mark.parametrize("demand", [Demand("there", 1, 1, 1), Demand("new", 1, -1, 1), Demand("new", 1, 1, 0)])
    def test_what_cannot_be_meant_is_refused(self, demand: Demand) -> None:
        queue = self.policy.start()
        queue.add(Demand("there", 0, 1, 1))
        with pytest.raises(InvalidArgument):
            queue.add(demand)
        assert len(queue) == 1
        if demand.name == "new":
            with pytest.raises(InvalidArgument):
                queue.plan([demand], 100)

    def test_no_more_run_than_may(self) -> None:
        queue = self.policy.start()
        for name in range(10):
            queue.add(Demand(name, name, 1, 1))
        assert len(queue.plan([Demand("running", 0, 1, 1)], 1000, most=4).start) == 3
        assert queue.plan([Demand("running", 0, 1, 1)], 1000, most=0) == ([], [], [])
        assert len(queue) == 7


class PredictorTests:
    """Subclasses say which predictor it is, in the class variable `prediction`."""

    prediction: ClassVar[Prediction]

    @pytest.mark.parametrize("seed", range(5))
    def test_a_prediction_is_more_than_there_is_and_at_most_what_there_may_be(self, seed: int) -> None:
        random, predictor = Random(seed), self.prediction.start()
        for _ in range(300):
            namespace, most = random.choice("ab"), random.randint(1, 1000)
            output = random.randint(1, most)
            request = Request(namespace, random.randint(1, 1000), most, random.choice([None, output, most]))
            for generated in sorted(random.sample(range(output), min(output, 5))):
                assert generated < predictor.predict(request, generated) <= most
            predictor.finished(request, output)

    def test_one_namespace_tells_nothing_of_another(self) -> None:
        predictor, fresh = self.prediction.start(), self.prediction.start()
        for _ in range(100):
            predictor.finished(Request("theirs", 10, 1000), 7)
        assert predictor.predict(Request("ours", 10, 1000)) == fresh.predict(Request("ours", 10, 1000))
