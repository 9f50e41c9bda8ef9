"""Too much at once is refused with a hint, and a worker that dies costs a retry or a clear error."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.conftest import MODEL, Served
from tests.gateway.test_answers_e2e import figure

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(make_served: Callable[[], Served]) -> Iterator[Served]:
    """Two decode workers, and a gateway that takes four requests at once."""
    system = make_served()
    try:
        system.start('max_waiting = 4\nrest = "200ms"\nrefresh = "200ms"\n', decode=2)
        yield system
    finally:
        system.end()


def asked(system: Served, number: int, tokens: int = 300) -> Any:
    body = {"model": MODEL, "prompt": f"{number} of many", "max_tokens": tokens, "temperature": 0}
    return httpx.post(f"{system.url}/v1/completions", json=body, timeout=60)


def test_beyond_the_bound_is_429_with_a_hint(small: Served, wait_until: Callable[..., None]) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: asked(small, number), range(16)))
    statuses = sorted(answer.status_code for answer in answers)
    assert set(statuses) == {200, 429} and statuses.count(200) >= 4
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "overloaded"
    wait_until(lambda: not figure(small, "requests_under_way"))
    assert asked(small, 99, 4).status_code == 200


def test_the_client_comes_back_by_itself(small: Served) -> None:
    with openai.OpenAI(base_url=f"{small.url}/v1", api_key="x", max_retries=8) as client:
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda number: client.completions.create(model=MODEL, prompt=f"again {number}", max_tokens=40),
                    range(8),
                )
            )
    assert all(answer.choices[0].finish_reason for answer in answers)


def test_requests_spread_over_both_workers(small: Served) -> None:
    for number in range(12):
        assert asked(small, number, 2).status_code == 200
    from decode_worker.client import DecodeClient

    done = []
    for worker in small.worker_children[1:]:
        with DecodeClient(worker.address) as client:
            done.append(sum(each.value for each in client.stats() if each.name == "requests_done"))
    assert min(done) > 0


def test_a_dead_worker_costs_no_answer(small: Served) -> None:
    """The map still has it for seconds: whoever is sent there is sent elsewhere."""
    small.worker_children[1].kill()
    for number in range(12):
        answer = asked(small, 100 + number, 3)
        assert answer.status_code == 200, answer.text


def test_a_worker_lost_in_the_middle_is_a_clear_error(small: Served, wait_until: Callable[..., None]) -> None:
    wait_until(lambda: len(small.store.members("decode")[1]) == 1)
    body = {"model": MODEL, "prompt": "the last one", "max_tokens": 900, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{small.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        small.worker_children[2].kill()
        rest = [line for line in lines if line]
    assert '"error"' in rest[-1] and '"unavailable"' in rest[-1] and "[DONE]" not in rest[-1]
    answer = asked(small, 1, 2)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    wait_until(lambda: not figure(small, "requests_under_way"))
    wait_until(lambda: httpx.get(f"{small.url}/health").status_code == 503)
