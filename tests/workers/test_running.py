"""Requests under way: bounded, named, and given up by name."""

import threading

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, Overloaded
from cachestore.metrics import Counters, total
from prefill_worker.call import Call
from prefill_worker.running import Running


def test_bound_names_and_counting() -> None:
    counters = Counters()
    running = Running(2, counters)
    deadline = Deadline.after(5)
    with running.enter("a", deadline), running.enter("b", deadline):
        assert len(running) == 2
        with pytest.raises(Overloaded, match="2 requests"), running.enter("c", deadline):
            pass
        with pytest.raises(InvalidArgument, match="under way"), running.enter("a", deadline):
            pass
    for name in ("", "x" * 129):
        with pytest.raises(InvalidArgument, match="request_id"), running.enter(name, deadline):
            pass
    assert len(running) == 0
    figures = list(counters.figures())
    assert total(figures, "requests_refused", reason="overloaded") == 1
    assert total(figures, "requests_refused", reason="invalid_argument") == 3


def test_abort_and_drain() -> None:
    running = Running(4, Counters())
    entered = threading.Event()

    def work(name: str) -> None:
        with running.enter(name, Deadline.after(10)) as call:
            woken = threading.Event()
            with call.ending(woken.set, woken.set):
                entered.set()
                assert woken.wait(10)

    assert not running.abort("a")
    for name in ("a", "b"):
        thread = threading.Thread(target=work, args=(name,))
        entered.clear()
        thread.start()
        assert entered.wait(5)
        if name == "a":
            assert running.abort("a")
        else:
            assert running.drain(5)
        thread.join(5)
    assert running.drain(0.1) and len(running) == 0


def test_a_call_says_why_it_is_over() -> None:
    call = Call(Deadline.after(5))
    call.check("testing")
    call.abort()
    with pytest.raises(Aborted, match="while testing"):
        call.check("testing")
    told: list[str] = []
    with call.ending(lambda: told.append("abort"), lambda: told.append("finish")):
        assert told == ["abort"]
    other = Call(Deadline.after(5))
    other.finish()
    with other.ending(lambda: told.append("abort"), lambda: told.append("finish")):
        assert told == ["abort", "finish"]
        other.check("testing")
        other.abort()
    assert told == ["abort", "finish", "abort"]
    late = Call(Deadline(0.0))
    with pytest.raises(DeadlineExceeded, match="while testing"):
        late.check("testing")
