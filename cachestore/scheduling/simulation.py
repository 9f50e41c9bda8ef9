"""Requests through a queue, step by step, without any model: what would a policy do?

The model is the paper's: in every step each running sequence takes one token, and memory for it; after the last one it
frees all. A request with a prompt of s tokens that starts before step k holds s + t tokens in its t-th step.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cachestore.errors import InvalidArgument
from cachestore.scheduling.base import Demand, Queue
from cachestore.scheduling.predictor import PredictionErrors, Predictor, Request
from cachestore.scheduling.predictor_exact import Exact


@dataclass(frozen=True)
class Arrival:
    """A request, the step before which it comes, and how many tokens its output will really have."""

    step: int
    request: Request
    output: int


@dataclass
class Outcome:
    """What became of the requests; lists are in their order.

    latency: steps from arrival to the end of the last one; None if refused
    pages: how many were held in each step
    budget: pages there were
    preempted: how often a sequence was
    waited: the most that ever waited at a time
    errors: of the predictions
    """

    latency: list[int | None]
    budget: int
    pages: list[int] = field(default_factory=list)
    preempted: int = 0
    waited: int = 0
    errors: PredictionErrors = field(default_factory=PredictionErrors)

    @property
    def total(self) -> int:
        """The sum of all latencies."""
        return sum(steps for steps in self.latency if steps is not None)

    def percentile(self, percent: int) -> int:
        """The least latency that so many percent of the requests do not exceed."""
        latency = sorted(steps for steps in self.latency if steps is not None)
        return latency[-(-percent * len(latency) // 100) - 1]


@dataclass
class _Sequence:
    number: int
    arrival: Arrival
    first: int
    """What was predicted when it came."""
    predicted: int
    generated: int = 0

    @property
    def held(self) -> int:
        return self.arrival.request.prompt_tokens + self.generated

    @property
    def demand(self) -> Demand:
        return Demand(self.number, self.arrival.step, self.held, self.predicted - self.generated)


def simulate(
    queue: Queue, arrivals: Sequence[Arrival], budget: int, page_tokens: int = 1, predictor: Predictor | None = None
) -> Outcome:
    """Runs all requests, sorted by arrival, to their ends; without a predictor all lengths are known.

    A preempted sequence keeps what it generated, and coming back costs it no step. InvalidArgument if the queue lets
    nothing run although something could.
    """
    predictor = predictor or Exact().start()
    outcome = Outcome([None] * len(arrivals), budget)
    unfinished: dict[Hashable, _Sequence] = {}
    running: dict[Hashable, _Sequence] = {}
    step = came = 0
    while came < len(arrivals) or unfinished:
        if not unfinished:
            step = max(step, arrivals[came].step)
        while came < len(arrivals) and arrivals[came].step <= step:
            predicted = predictor.predict(arrivals[came].request)
            unfinished[came] = _Sequence(came, arrivals[came], predicted, predicted)
            queue.add(unfinished[came].demand)
            came += 1
        outcome.waited = max(outcome.waited, len(queue))
        plan = queue.plan([sequence.demand for sequence in running.values()], budget)
        for name in plan.refuse:
            running.pop(name, None)
            del unfinished[name]
        for name in plan.preempt:
            queue.add(running.pop(name).demand)
        outcome.preempted += len(plan.preempt)
        running |= {name: unfinished[name] for name in plan.start}
        if unfinished and not running:
            raise InvalidArgument(f"the queue lets nothing run in step {step}, though {len(unfinished)} could")
        step += 1
        for sequence in running.values():
            sequence.generated += 1
        outcome.pages.append(sum(-(sequence.held // -page_tokens) for sequence in running.values()))
        for sequence in [one for one in running.values() if one.generated == one.arrival.output]:
            outcome.latency[sequence.number] = step - sequence.arrival.step
            outcome.errors.add(sequence.first, sequence.generated)
            predictor.finished(sequence.arrival.request, sequence.generated)
            del running[sequence.number], unfinished[sequence.number]
        for sequence in running.values():
            if sequence.generated >= sequence.predicted:
                sequence.predicted = predictor.predict(sequence.arrival.request, sequence.generated)
    return outcome
