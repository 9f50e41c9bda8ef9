"""Memory for reads: used again, never while anybody holds a view of it, and never more than the cap."""

import threading
import tracemalloc

import numpy as np
import pytest

from cachestore.tiers.spare import GRAIN, Memory


def place(array: "np.ndarray") -> int:
    return int(array.__array_interface__["data"][0])


def test_what_nobody_holds_is_used_again() -> None:
    memory = Memory(4 * GRAIN)
    first = memory.take(2 * GRAIN)
    at = place(first)
    del first
    again = memory.take(2 * GRAIN - 5)
    assert place(again) == at and again.nbytes == 2 * GRAIN - 5 and again.dtype == np.uint8


def test_a_view_of_any_kind_keeps_it() -> None:
    memory = Memory(4 * GRAIN)
    views = [memory.take(GRAIN)[7:], memory.take(GRAIN).data, memory.take(GRAIN).view("<u8")[2:9].reshape(7)]
    for view in views:
        np.asarray(view)[:] = 1
    for other in [memory.take(GRAIN) for _ in range(8)]:
        other[:] = 2
    assert all((np.asarray(view) == 1).all() for view in views)


@pytest.mark.parametrize("taken", [[1] * 8, [2, 2, 2], [1, 4, 1, 5], [9]])
def test_no_more_than_the_cap_is_kept(taken: list[int]) -> None:
    memory = Memory(3 * GRAIN)
    tracemalloc.start()
    held = [memory.take(grains * GRAIN) for grains in taken]
    assert tracemalloc.get_traced_memory()[0] >= sum(taken) * GRAIN
    held.clear()
    assert tracemalloc.get_traced_memory()[0] < 3 * GRAIN + 20_000
    tracemalloc.stop()


def test_small_and_empty_ones_are_plain_memory() -> None:
    memory = Memory(3 * GRAIN)
    assert [memory.take(nbytes).nbytes for nbytes in (0, 1, GRAIN - 1)] == [0, 1, GRAIN - 1]


def test_threads_never_share() -> None:
    memory = Memory(16 * GRAIN)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            mine = memory.take(GRAIN)
            mine[::4096] = number
            if (mine[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
