"""Turns are fair, and waiting for one can be given up."""

import threading
import time

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded
from prefill_worker.call import Call
from prefill_worker.turns import Turns


def call(seconds: float = 10.0) -> Call:
    return Call(Deadline.after(seconds))


def waiting(turns: Turns, count: int) -> None:
    until = time.monotonic() + 5
    while len(turns._line) != count:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_in_the_order_of_asking_and_again_at_the_end() -> None:
    turns, order = Turns(), []

    def ask(name: str) -> None:
        with turns.turn(call()):
            order.append(name)

    threads = []
    with turns.turn(call()) as again:
        order.append("first")
        for number in range(4):
            threads.append(threading.Thread(target=ask, args=(str(number),)))
            threads[-1].start()
            waiting(turns, number + 2)
        again()
        order.append("again")
    for thread in threads:
        thread.join()
    assert order == ["first", "0", "1", "2", "3", "again"]


def test_waiting_is_given_up() -> None:
    turns, over = Turns(), call()
    over.abort()
    with turns.turn(call()):
        with pytest.raises(DeadlineExceeded), turns.turn(call(0.01)):
            pass
        with pytest.raises(Aborted), turns.turn(over):
            pass
        waiting(turns, 1)
    with turns.turn(call()):
        pass


def test_whoever_fails_to_take_it_again_does_not_keep_it() -> None:
    turns, mine = Turns(), call()
    with pytest.raises(Aborted), turns.turn(mine) as again:
        mine.abort()
        again()
    with turns.turn(call(1.0)):
        pass
