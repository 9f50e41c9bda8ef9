"""Workers and stores that die, freeze or are foreign: the tokens stay the same."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from cachestore.hashing import fingerprint
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from prefill_worker.client import PrefillClient

pytestmark = pytest.mark.slow

LONG = 6000


class Asked(threading.Thread):
    """One request in a thread of its own; `done` gives what `ask` gives."""

    def __init__(self, trio: Any, tokens: list[int]) -> None:
        super().__init__()
        self._trio, self._tokens = trio, tokens
        self._answer: Any = None
        self.start()

    def run(self) -> None:
        self._answer = self._trio.ask(self._tokens, 6)

    def done(self) -> Any:
        self.join(60)
        assert self._answer is not None
        return self._answer


SETTINGS = 'silence = "1s"\nprefill_attempts = 1\nrest = "50ms"\nrefresh = "50ms"\n'


@pytest.fixture
def breakable(make_trio: Callable[..., Any]) -> Iterator[Any]:
    """A cluster of a test's own, memory only."""
    cluster = make_trio(cold=False)
    try:
        cluster.start(SETTINGS)
        yield cluster
    finally:
        cluster.end()


def test_a_prefill_worker_that_freezes_and_dies(
    breakable: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    seeds = count(5100)

    def fresh() -> list[int]:
        return make_prompt(60, next(seeds))

    def handed() -> bool:
        tokens = fresh()
        made, usage = breakable.ask(tokens)
        assert made == breakable.expected(tokens)
        return bool(usage.prefilled_by == "p0")

    # so that they are connected: to a frozen process nobody connects, which is found out sooner
    assert handed()
    breakable.prefill_child.stop()
    started = time.monotonic()
    assert not handed()
    assert 1.0 <= time.monotonic() - started < 3.0
    assert breakable.counted("fallback_prefill", reason="unavailable") == 1
    breakable.prefill_child.go_on()
    wait_until(handed)

    # frozen, and then killed, in the middle of a prefill that is read here
    for seed, end in ((52, breakable.prefill_child.stop), (53, breakable.prefill_child.kill)):
        long = make_prompt(LONG, seed)
        wait_until(handed)
        failures = breakable.counted("fallback_prefill")
        asked = Asked(breakable, long)
        wait_until(lambda: total(breakable.store.stats(), "puts_open") == 1)
        end()
        made, usage = asked.done()
        assert made == breakable.expected(long, 6) and usage.prefilled_by == "local"
        assert usage.reuse.computed + usage.reuse.reused.get("cpu", 0) == LONG
        assert breakable.counted("fallback_prefill") == failures + 1
        breakable.prefill_child.go_on()
    breakable.at_rest()
    breakable.known("prefill", 0)
    failures = breakable.counted("fallback_prefill")
    assert not handed()
    assert breakable.counted("fallback_prefill") == failures

    with breakable.decode.generate(fresh(), max_tokens=5000) as answer:
        next(iter(answer))
        breakable.decode_child.process.send_signal(signal.SIGTERM)
        assert breakable.decode_child.process.wait(10) == 0
    breakable.known("decode", 0)
    breakable.at_rest()


def test_a_store_that_freezes_and_dies(
    breakable: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    seeds = count(5300)

    def handed() -> bool:
        tokens = make_prompt(60, next(seeds))
        made, usage = breakable.ask(tokens)
        assert made == breakable.expected(tokens)
        return bool(usage.prefilled_by == "p0")

    assert handed()
    breakable.store_child.stop()
    started = time.monotonic()
    assert not handed()
    assert time.monotonic() - started < 5.0
    assert breakable.counted("fallback_store", doing="map") == 1
    breakable.store_child.go_on()
    wait_until(handed, 20)

    long = make_prompt(LONG, 54)
    asked = Asked(breakable, long)
    wait_until(lambda: total(breakable.store.stats(), "puts_open") == 1)
    breakable.store_child.kill()
    made, _ = asked.done()
    assert made == breakable.expected(long, 6)
    assert not handed()

    address = breakable.store_child.address
    breakable.start_store(int(address.rpartition(":")[2]))
    with RemoteStore(address):
        breakable.known("prefill", 1)
        wait_until(handed, 20)


def test_a_prefill_worker_of_another_model(
    empty: Any, make_trio: Callable[..., Any], make_prompt: Callable[..., list[int]]
) -> None:
    foreign = make_trio("qwen3")
    foreign.store_child = empty.store_child
    try:
        child = foreign.children.told(foreign.start_worker("prefill", "a-foreign"))
        empty.known("prefill", 2)
        seeds = count(5500)
        # a member that tells another fingerprint is not asked; this one is a foreign worker that lies about it
        liar = Member("prefill", "a-liar", child.address, "here", b"1", 0, fingerprint(empty.engine.spec))
        empty.store.register(liar, 60)
        # asked until the decode worker has seen the new cluster map
        until = time.monotonic() + 10
        while not empty.counted("fallback_prefill", reason="mismatch"):
            tokens = make_prompt(60, next(seeds))
            made, usage = empty.ask(tokens)
            assert made == empty.expected(tokens) and usage.prefilled_by == "p0"
            assert time.monotonic() < until
        with PrefillClient(child.address) as client:
            # refused before it is a request
            assert total(client.stats(), "requests") == 0
        empty.store.register(liar, 0)
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(10) == 0
        assert [member.name for member in empty.store.members("prefill")[1]] == ["p0"]
    finally:
        foreign.children.end()
