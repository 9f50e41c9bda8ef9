"""Whatever was measured to be faster is done, and one slow answer does not decide for ever."""

import pytest

from cachestore.engine.fetching import PROBE, SURE, Fetching, Line, Segment
from cachestore.metrics import Counters, total
from cachestore.store.base import Run

SIZE = 64


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def fetching(counters: Counters) -> Fetching:
    return Fetching(counters, SIZE)


def runs(*tiers: tuple[int, str]) -> list[Run]:
    return [Run(blocks, tier, "here") for blocks, tier in tiers]


def measure(fetching: Fetching, tier: str, each: float, fixed: float = 0.0) -> None:
    for blocks in (1, 8, 64):
        fetching.fetched(Segment(0, blocks, tier), blocks, fixed + each * blocks)


def test_what_was_never_measured_is_fetched(fetching: Fetching) -> None:
    assert fetching.decide(runs((3, "cpu"), (2, "disk")), 4) == [Segment(4, 7, "cpu"), Segment(7, 9, "disk")]
    fetching.computed(256, 0.001)
    assert fetching.decide(runs((3, "cpu")), 0) == [Segment(0, 3, "cpu")]


def test_each_run_goes_the_faster_way(fetching: Fetching, counters: Counters) -> None:
    for tokens in (64, 256, 512):
        # half a second of each step is not for these tokens
        fetching.computed(tokens, 0.5 + tokens * 1e-3)
    measure(fetching, "cpu", 1e-3)
    measure(fetching, "far", 0.1)
    measure(fetching, "slow_start", 1e-3, fixed=0.2)
    decided = fetching.decide(runs((2, "cpu"), (4, "far"), (2, "slow_start"), (9, "slow_start"), (1, "cpu")), 10)
    assert [segment[:3] for segment in decided] == [(10, 12, "cpu"), (18, 27, "slow_start"), (27, 28, "cpu")]
    assert decided[1].seconds == pytest.approx(0.209)
    figures = list(counters.figures())
    assert total(figures, "fetch_runs", tier="far", choice="compute") == 1
    assert total(figures, "fetch_runs", tier="slow_start") == 2
    assert total(figures, "fetch_runs", choice="fetch") == 3


def test_one_slow_answer_at_first_says_nothing(fetching: Fetching) -> None:
    """It opened the connection, say."""
    fetching.computed(256, 0.256)
    for seconds in (5.0, 0.01, 0.01):
        assert [segment[:3] for segment in fetching.decide(runs((16, "cpu")), 0)] == [(0, 16, "cpu")]
        fetching.fetched(Segment(0, 16, "cpu"), 16, seconds)
    assert fetching.decide(runs((16, "cpu")), 0)


def test_slow_first_answers_heal(fetching: Fetching, counters: Counters) -> None:
    fetching.computed(256, 0.256)
    for _ in range(SURE):
        fetching.fetched(Segment(0, 4, "far"), 4, 30.0)
    asked = 0
    while not total(list(counters.figures()), "fetch_runs", tier="far", choice="fetch"):
        asked += 1
        assert asked < 30 * PROBE
        for segment in fetching.decide(runs((4, "far")), 0):
            fetching.fetched(segment, 4, 0.004)
    assert total(list(counters.figures()), "fetch_runs", tier="far", choice="probe") * PROBE <= asked


def test_without_recompute_everything_is_fetched(counters: Counters) -> None:
    fetching = Fetching(counters, SIZE, recompute=False)
    fetching.computed(256, 0.001)
    measure(fetching, "far", 1.0)
    assert [segment[:3] for segment in fetching.decide(runs((4, "far")), 0)] == [(0, 4, "far")]


def test_how_wrong_predictions_were_is_counted(fetching: Fetching, counters: Counters) -> None:
    fetching.computed(100, 1.0)
    assert total(list(counters.figures()), "took_us") == 0
    fetching.computed(100, 1.5)
    fetching.fetched(Segment(0, 2, "cpu", seconds=0.5), 2, 0.25)
    # nothing is said about a run that did not come whole, nor about one that did not come
    fetching.fetched(Segment(0, 2, "cpu", seconds=0.5), 1, 0.25)
    fetching.fetched(Segment(0, 2, "cpu", seconds=0.5), 0, 9.0)
    figures = list(counters.figures())
    assert {what: total(figures, "error_us", what=what) for what in ("compute", "cpu")} == {
        "compute": pytest.approx(500_000, abs=2),
        "cpu": 250_000,
    }
    assert total(figures, "predicted_us", what="cpu") == 500_000
    assert total(figures, "took_us", what="cpu") == 250_000


def test_a_line_forgets() -> None:
    line = Line()
    for _ in range(30):
        line.add(10, 100.0)
    for amount in (1, 2, 3) * 10:
        line.add(amount, 1.0 + amount)
    fixed, each = line.fit()
    assert fixed == pytest.approx(1.0, abs=0.05) and each == pytest.approx(1.0, abs=0.05)
