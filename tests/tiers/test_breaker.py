"""The breaker opens, probes with growing pauses, and heals."""

import time
from collections.abc import Callable

from cachestore.tiers.breaker import Breaker


def opened(breaker: Breaker) -> Breaker:
    for _ in range(breaker.failures):
        assert breaker.allows()
        breaker.failed()
    assert breaker.open and not breaker.allows()
    return breaker


def pause(breaker: Breaker) -> float:
    return breaker._probe_at - time.monotonic()


def test_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    breaker = Breaker(failures=3)
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
        assert breaker.allows() and not breaker.open
    opened(breaker)


def test_one_probe_at_a_time_is_let_through(eventually: Callable[..., None]) -> None:
    breaker = opened(Breaker(first=0.05, longest=0.2))
    eventually(breaker.allows)
    assert not breaker.allows() and breaker.open
    breaker.succeeded()
    assert not breaker.open and breaker.allows() and breaker.allows()


def test_pauses_double_up_to_the_longest(eventually: Callable[..., None]) -> None:
    breaker = opened(Breaker(first=0.01, longest=0.04))
    pauses = [breaker._pause]
    for _ in range(4):
        eventually(breaker.allows)
        breaker.failed()
        pauses.append(breaker._pause)
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04]
    breaker.succeeded()
    assert opened(breaker)._pause == 0.01


def test_calls_that_fail_together_count_as_one_reason_to_wait() -> None:
    breaker = Breaker(failures=3, first=1.0, longest=30.0)
    assert all(breaker.allows() for _ in range(16))
    for _ in range(16):
        breaker.failed()
    assert 0 < pause(breaker) <= 1.0


def test_a_probe_that_never_comes_back_does_not_latch_it(eventually: Callable[..., None]) -> None:
    breaker = opened(Breaker(first=0.02, longest=0.02))
    eventually(breaker.allows)
    eventually(breaker.allows)
    breaker.succeeded()
    assert not breaker.open
