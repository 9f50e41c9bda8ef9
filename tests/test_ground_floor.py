"""Deadlines, counters, plug names and the mover: what every floor stands on."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachestore.codecs import CODECS
from cachestore.deadline import Deadline, held_until
from cachestore.errors import ConfigError, DeadlineExceeded, InvalidArgument
from cachestore.metrics import Counters, Figure, total
from cachestore.mover import Mover
from cachestore.registry import Catalogue, nearest

SOON = 10.0


def test_a_deadline_is_a_point_in_time() -> None:
    deadline = Deadline.after(60)
    assert 59 < deadline.remaining() <= 60
    deadline.check("waiting")
    over = Deadline(time.monotonic() - 1)
    assert over.remaining() == 0
    with pytest.raises(DeadlineExceeded, match="while waiting"):
        over.check("waiting")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_deadline_that_never_comes_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout"):
        Deadline.after(seconds)


@pytest.mark.parametrize("make", [threading.Lock, threading.Condition])
def test_a_lock_is_waited_for_until_the_deadline(make: Callable[[], Any]) -> None:
    lock = make()
    with ThreadPoolExecutor(1) as other:

        def tried(seconds: float) -> bool:
            with held_until(lock, Deadline.after(seconds)) as held:
                return held

        with held_until(lock, Deadline.after(SOON)) as held:
            assert held
            assert not other.submit(tried, 0.05).result(SOON)
            waiting = other.submit(tried, SOON)
        assert waiting.result(SOON)
        with pytest.raises(KeyError), held_until(lock, Deadline.after(SOON)):
            raise KeyError
        assert other.submit(tried, 0.05).result(SOON), "what was raised inside left it held"


def test_counters_lose_nothing_between_threads() -> None:
    counters = Counters()

    def count(worker: int) -> None:
        for _ in range(2000):
            counters.add("n", worker=str(worker % 2))

    with ThreadPoolExecutor(8) as threads:
        for worker in range(8):
            threads.submit(count, worker)
    figures = list(counters.figures())
    assert total(figures, "n") == 16_000 and total(figures, "n", worker="1") == 8000
    assert figures == sorted(figures) and figures[0].label("worker") == "0" and figures[0].label("none") == ""
    counters.add("n", -16_000, worker="0")
    assert Figure("n", (("worker", "0"),), -8000) in list(counters.figures())


def test_names_lead_to_classes_and_mistakes_to_the_nearest_name() -> None:
    assert CODECS.load("raw").__name__ == "Raw" and CODECS.names() == ["entropy", "lz4", "raw"]
    with pytest.raises(ConfigError, match=r"codecs\.name = 'lz5' is unknown; did you mean 'lz4'\?"):
        CODECS.load("lz5")
    missing = Catalogue("codecs", {"odd": "package_that_nobody_has:Odd"})
    with pytest.raises(ConfigError, match="needs the package 'package_that_nobody_has'"):
        missing.load("odd")
    assert nearest("x", []) == "there is none to choose from: leave it out"


def test_jobs_run_in_order_and_a_failing_one_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    mover = Mover(tick=lambda: None)
    mover.open()
    try:
        first = mover.submit(lambda: done.append(1))
        broken = mover.submit(lambda: done.append(1 // 0))
        last = mover.submit(lambda: done.append(2))
        assert first and broken and last
        assert last.result(SOON) is None and done == [1, 2]
        assert isinstance(broken.exception(SOON), ZeroDivisionError)
        assert mover.settle(SOON)
    finally:
        mover.close()
    assert "a background move failed" in caplog.text


def test_closing_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    gate, done = threading.Event(), []
    mover = Mover(tick=lambda: None)
    mover.open()
    jobs = [mover.submit(gate.wait)] + [mover.submit(lambda: done.append(1)) for _ in range(50)]  # type: ignore[arg-type]
    assert all(jobs) and not mover.settle(0.01)
    closer = threading.Thread(target=mover.close)
    closer.start()
    gate.set()
    closer.join(SOON)
    assert not closer.is_alive() and len(done) == 50
    assert mover.submit(lambda: None) is None
    mover.close()


def test_no_job_is_lost_between_accepting_and_closing() -> None:
    for _ in range(20):
        mover = Mover(tick=lambda: None)
        ran: list[int] = []
        mover.open()
        start = threading.Barrier(3)

        def submit(mover: Mover = mover, ran: list[int] = ran, start: threading.Barrier = start) -> int:
            start.wait(SOON)
            return sum(mover.submit(lambda: ran.append(1)) is not None for _ in range(200))

        with ThreadPoolExecutor(2) as threads:
            jobs = [threads.submit(submit) for _ in range(2)]
            start.wait(SOON)
            mover.close()
            assert sum(job.result(SOON) for job in jobs) == len(ran)


def test_a_full_backlog_refuses() -> None:
    gate, taken = threading.Event(), threading.Event()
    mover = Mover(tick=lambda: None, backlog=2)
    mover.open()
    try:

        def hold() -> None:
            taken.set()
            gate.wait(SOON)

        assert mover.submit(hold) and taken.wait(SOON)
        assert [mover.submit(lambda: None) is None for _ in range(4)] == [False, False, True, True]
        gate.set()
        assert mover.settle(SOON)
        assert mover.submit(lambda: None)
    finally:
        gate.set()
        mover.close()


def test_the_clock_goes_on_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[int] = []
    enough = threading.Event()

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise ZeroDivisionError
        enough.set()

    mover = Mover(tick, every=0.01)
    mover.open()
    try:
        assert enough.wait(SOON)
    finally:
        mover.close()
    assert "clock failed once" in caplog.text
