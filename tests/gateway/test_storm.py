"""Many clients that come and leave while workers die: whoever stays gets the whole answer, and nothing is left over."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from tests.e2e.cluster import Child
from tests.gateway.conftest import MODEL, Served, figure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 24
SECONDS = 25.0
DEADLINE = 40.0
CLEAR = {429, 503, 504}
PROMPTS = [f"Once upon a time, in the year {year}, there was a store. " for year in range(1990, 1996)]


@pytest.fixture(scope="module")
def stormy(make_served: Callable[[], Served]) -> Iterator[Served]:
    system = make_served()
    try:
        system.start(f'max_waiting = 64\nrest = "200ms"\nrefresh = "200ms"\nrequest_timeout = {DEADLINE}\n', decode=3)
        yield system
    finally:
        system.end()


def asked(system: Served, prompt: str, tokens: int, leave: int = 0) -> tuple[str, float]:
    """The text of an answer, or its status, empty if the client left after `leave` chunks; and the seconds it took."""
    body: dict[str, Any] = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    begun, text, ended = time.monotonic(), "", False
    with httpx.stream("POST", f"{system.url}/v1/completions", json=body, timeout=DEADLINE + 10) as answer:
        if answer.status_code != 200:
            assert answer.status_code in CLEAR, answer.read()
            return str(answer.status_code), time.monotonic() - begun
        for number, line in enumerate(filter(None, answer.iter_lines())):
            if leave and number == leave:
                return "", 0.0
            ended = line == "data: [DONE]"
            if '"error"' in line:
                return "error", time.monotonic() - begun
            if not ended:
                (choice,) = httpx.Response(200, content=line.removeprefix("data: ")).json()["choices"]
                text += choice["text"]
    assert ended, "an answer without its end"
    return text, time.monotonic() - begun


def held(process: int) -> tuple[int, int]:
    """File descriptors and threads."""
    return len(list(Path(f"/proc/{process}/fd").iterdir())), len(list(Path(f"/proc/{process}/task").iterdir()))


def test_a_storm(stormy: Served, wait_until: Callable[..., None]) -> None:
    expected = {prompt: asked(stormy, prompt, 200)[0] for prompt in PROMPTS}
    over, seen, gateway = Event(), Counter[str](), stormy.gateway_child.process.pid
    fds, threads = held(gateway)

    def client(seed: int) -> None:
        dice = random.Random(seed)
        while not over.is_set():
            prompt, tokens = dice.choice(PROMPTS), dice.randint(1, 200)
            leave = dice.randint(1, 20) if dice.random() < 0.3 else 0
            text, seconds = asked(stormy, prompt, tokens, leave)
            assert seconds < DEADLINE + 1.0
            if text in ("error", *map(str, CLEAR)):
                seen["refused"] += 1
            elif text or not leave:
                # a token is a byte, and half a character at the end reads otherwise
                assert expected[prompt].startswith(text.rstrip("\ufffd"))
                seen["answered"] += 1
            else:
                seen["left"] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, seed) for seed in range(CLIENTS)]
        until, number = time.monotonic() + SECONDS, 0
        workers: list[Child] = stormy.worker_children[1:]
        while time.monotonic() < until:
            time.sleep(4.0)
            workers.pop(0).kill()
            workers.append(stormy.children.told(stormy.start_worker("decode", f"later{number}")))
            number += 1
        over.set()
        for each in clients:
            each.result()
    assert seen["answered"] > 10 * seen["refused"] and seen["left"] > 0
    wait_until(lambda: not figure(stormy, "requests_under_way"))
    ends = ("requests_done_total", "requests_failed_total", "requests_left_total")
    assert figure(stormy, "requests_total") == sum(figure(stormy, name) for name in ends)
    wait_until(lambda: held(gateway)[0] <= fds + 8 and held(gateway)[1] <= threads + 8)
    for worker in workers:
        wait_until(
            lambda at=worker.address: not any(m.queue for m in stormy.store.members("decode")[1] if m.address == at)
        )
    stormy.at_rest()
