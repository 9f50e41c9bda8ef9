"""Who gives a request up stops everybody who works for it: its pages, leases and reservations are free soon after."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted, DeadlineExceeded
from cachestore.metrics import Figure, total

LONG = 6000
BOUND = 0.2
"""Seconds, or the end of the running step, which is shorter here."""
LONG_ANSWER = Sampling(temperature=0.4, seed=3)
"""Behind prompt 31 of 50 tokens it comes to no end token for long enough."""


def held(trio: Any) -> dict[str, int]:
    """What a request may hold, by party."""

    def sums(figures: list[Figure], *names: str) -> int:
        return sum(total(figures, name) for name in names)

    work = ("waiting", "running", "pages_referenced")
    return {
        "prefill": sums(trio.prefill.stats(), *work),
        "decode": sums(trio.decode.stats(), *work),
        "store": sums(trio.store.stats(), "leases_open", "puts_open", "put_open", "read_open"),
    }


def generating(trio: Any) -> bool:
    return bool(total(trio.decode.stats(), "running")) and not total(trio.prefill.stats(), "running")


def prefilling(trio: Any) -> bool:
    return all(held(trio).values())


@pytest.mark.parametrize("how", ["leaves", "aborts"])
@pytest.mark.parametrize("when", [prefilling, generating])
def test_everybody_stops_within_the_bound(
    when: Callable[[Any], bool],
    how: str,
    empty: Any,
    make_prompt: Callable[..., list[int]],
    wait_until: Callable[..., None],
    record_property: Callable[[str, object], None],
) -> None:
    tokens = make_prompt(LONG, 6000 + ord(how[0])) if when is prefilling else make_prompt(50, 31)
    wait_until(lambda: not any(held(empty).values()))
    with empty.decode.generate(tokens, max_tokens=2000, sampling=LONG_ANSWER) as answer:
        if when is generating:
            next(iter(answer))
        wait_until(lambda: when(empty))
        given_up = time.monotonic()
        if how == "leaves":
            answer.cancel()
        else:
            assert empty.decode.abort(answer.request_id)
        wait_until(lambda: not any(held(empty).values()))
        took = time.monotonic() - given_up
        with pytest.raises(Aborted):
            list(answer)
    record_property("seconds", took)
    print(f"{when.__name__}, {how}: {took * 1000:.0f} ms")
    assert took < BOUND + 1.0


@pytest.mark.parametrize("moment", ["asking", "reading", "generating"])
def test_the_deadline_ends_it_like_that(
    moment: str, empty: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    wait_until(lambda: not any(held(empty).values()))
    seconds = {"asking": 0.03, "reading": 0.3, "generating": 0.3}[moment]
    tokens = make_prompt(50, 31) if moment == "generating" else make_prompt(LONG, 6100 + len(moment))
    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        list(empty.decode.generate(tokens, max_tokens=2000, sampling=LONG_ANSWER, timeout=seconds))
    assert time.monotonic() - begun < seconds + 1.0
    wait_until(lambda: not any(held(empty).values()))
    assert time.monotonic() - begun < seconds + BOUND + 1.0
