"""How long will an output be, and how wrong was that?"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachestore.config import build_named
from cachestore.errors import ConfigError
from cachestore.scheduling import PREDICTORS
from cachestore.scheduling.predictor import PredictionErrors, Request
from cachestore.scheduling.predictor_bound import Bound
from cachestore.scheduling.predictor_exact import Exact
from cachestore.scheduling.predictor_history import History
from cachestore.testing import PredictorTests

REQUEST = Request("default", 10, 1000)


class TestBound(PredictorTests):
    prediction = Bound()


class TestExact(PredictorTests):
    prediction = Exact()


class TestHistory(PredictorTests):
    prediction = History(remember=50)


def test_exact_is_what_the_request_says_or_its_bound() -> None:
    assert Exact().predict(REQUEST) == 1000
    assert Exact().predict(REQUEST._replace(expected=30)) == 30


def test_one_that_was_too_short_is_doubled() -> None:
    short = REQUEST._replace(expected=30)
    assert [Exact().predict(short, generated) for generated in (29, 30, 60, 960)] == [30, 60, 120, 1000]


@given(
    st.lists(st.integers(1, 900), min_size=16, max_size=80), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(0, 950)
)
def test_history_is_the_quantile_of_the_last_outputs_that_were_longer(
    lengths: list[int], quantile: float, generated: int
) -> None:
    predictor = History(quantile, remember=40).start()
    for length in lengths:
        predictor.finished(REQUEST, length)
    predicted = predictor.predict(REQUEST, generated)
    longer = sorted(length for length in lengths[-40:] if length > generated)
    if longer:
        # the least that is no shorter than that share of them
        assert predicted == next(one for one in longer if sum(x <= one for x in longer) >= quantile * len(longer))
    else:
        assert generated < predicted <= 1000


def test_history_knows_nothing_at_first_and_forgets_namespaces_that_fell_silent() -> None:
    predictor = History(least=2).start()
    predictor.finished(REQUEST, 5)
    assert predictor.predict(REQUEST) == 1000
    predictor.finished(REQUEST, 7)
    assert predictor.predict(REQUEST) == 7 and predictor.predict(REQUEST._replace(max_tokens=6)) == 6
    for number in range(2000):
        predictor.finished(REQUEST._replace(namespace=str(number)), 5)
    assert predictor.predict(REQUEST) == 1000


def test_errors_are_counted() -> None:
    errors = PredictionErrors()
    for predicted, tokens in [(10, 10), (10, 15), (10, 4)]:
        errors.add(predicted, tokens)
    assert errors == PredictionErrors(outputs=3, tokens=29, short=1, tokens_under=5, tokens_over=6)
    assert errors.absolute == 11


@pytest.mark.parametrize(
    "table", [{"quantile": 0}, {"quantile": 1.5}, {"least": 0}, {"least": 20, "remember": 10}, {"quantile": "much"}]
)
def test_a_setting_out_of_range_is_named(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"scheduling\.predictor.*{next(iter(table))}"):
        build_named(PREDICTORS, {"name": "history", **table}, "scheduling.predictor")


def test_names() -> None:
    assert {name: PREDICTORS.load(name) for name in PREDICTORS.names()} == {
        "bound": Bound,
        "exact": Exact,
        "history": History,
    }
