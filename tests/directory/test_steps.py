"""Who takes a directory's steps: a thread of its own, which nothing that fails ends, beside callers with locks."""

import logging
import threading
from collections.abc import Callable

import pytest

from cachestore.directory.pulse import Pulse
from cachestore.directory.redis import RedisDirectory
from cachestore.metrics import total
from cachestore.testing.directories import MANY, became, holders, stepped
from cachestore.testing.tiers import KEYS, A, soon
from tests.directory.looking import found


def test_a_thread_does_what_is_due(part: Callable[..., RedisDirectory], eventually: Callable[..., None]) -> None:
    one, reader = part(), part()
    pulses = [Pulse(one), Pulse(reader)]
    for pulse in pulses:
        pulse.open()
    held = {(A, key) for key in KEYS[:2]}
    one.join("one", "one:1", held)
    eventually(lambda: holders(reader.lookup(A, KEYS[:3], soon())) == [{"one"}, {"one"}, set()])
    one.announce(A, KEYS[2:3])
    one.withdraw(A, KEYS[:1])
    eventually(lambda: holders(reader.lookup(A, KEYS[:3], soon())) == [set(), {"one"}, {"one"}])
    for pulse in pulses:
        pulse.close()
        pulse.close()


def test_a_step_that_fails_is_told_and_not_the_last(
    part: Callable[..., RedisDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    directory, failing = part(), [True]

    def queue() -> int:
        if failing:
            raise RuntimeError("no queue")
        return 3

    with pytest.raises(RuntimeError):
        directory.join("one", "one:1", set(), queue)
    failing.clear()
    directory.join("one", "one:1", set(), queue)
    failing.append(True)
    with caplog.at_level(logging.ERROR):
        became(lambda: stepped(directory) and total(directory.figures(), "directory_failed_steps"))
    failing.clear()
    became(lambda: stepped(directory) and [life.queue for life in directory.lives()] == [3])


def test_a_store_may_announce_under_the_lock_that_guards_what_it_holds(part: Callable[..., RedisDirectory]) -> None:
    lock = threading.Lock()

    class Guarded(set[tuple[bytes, bytes]]):
        def __contains__(self, name: object) -> bool:
            with lock:
                return super().__contains__(name)

    directory, held = part(refresh=0.001), Guarded((A, key) for key in MANY[:50])
    directory.join("one", "one:1", held)
    failures: list[Exception] = []

    def use(turn: Callable[[], object]) -> None:
        try:
            for _ in range(60):
                turn()
        except Exception as error:
            failures.append(error)

    def announce() -> None:
        with lock:
            directory.announce(A, MANY[:50])

    turns = [announce, lambda: directory.lookup(A, MANY[:50], soon()), directory.step, directory.lives]
    threads = [threading.Thread(target=use, args=[turn], daemon=True) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert not total(directory.figures(), "directory_failed_steps")
    became(lambda: found(directory, *MANY[:50]) == [{"one"}] * 50)
