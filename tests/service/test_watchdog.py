"""Streams that gRPC does not end: the watchdog replaces their channel."""

import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from cachestore.service.connection import Connection
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream.watchdog import LATE, SOON, Replaced, Watchdog, Watched
from cachestore.wire import store_pb2 as wire


class Hung:
    """A call that ends with its channel alone; grpcio has such calls, but none on demand."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self.cancelled = False

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()

    def cancel(self) -> None:
        self.cancelled = True

    def __next__(self) -> None:
        assert self._closed.wait(10)
        raise Cancelled


class Obedient(Hung):
    """A call that its cancelling ends."""

    def cancel(self) -> None:
        super().cancel()
        self.close()


class Finished(Hung):
    """A call that gRPC ended in time, and whose end it is about to tell."""

    def __next__(self) -> None:
        time.sleep(LATE / 2)
        raise Expired


class Expired(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED


@pytest.fixture
def hung() -> Iterator[tuple[Hung, Watchdog]]:
    call = Hung()
    watchdog = Watchdog(call.close)
    yield call, watchdog
    watchdog.close()


def test_a_stream_beyond_its_deadline_ends(hung: tuple[Hung, Watchdog]) -> None:
    call, watchdog = hung
    begun = time.monotonic()
    with pytest.raises(Replaced) as ended:
        next(Watched(watchdog, call, 0.2))
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.2 + LATE <= time.monotonic() - begun < 1.3 and watchdog.bites == 1
    assert call.cancelled


def test_others_go_on_when_a_stream_beyond_its_deadline_can_be_cancelled(hung: tuple[Hung, Watchdog]) -> None:
    other, watchdog = hung
    call = Obedient()
    with pytest.raises(Replaced) as ended:
        next(Watched(watchdog, call, 0.1))
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and call.cancelled
    time.sleep(3 * SOON)
    assert watchdog.bites == 0 and not other.closed


def test_a_stream_that_is_asked_after_its_deadline_may_say_that_it_ended(hung: tuple[Hung, Watchdog]) -> None:
    other, watchdog = hung
    call = Finished()
    watched = Watched(watchdog, call, 0.0)
    time.sleep(2 * LATE)
    for _ in range(3):
        with pytest.raises(Expired):
            next(watched)
    assert watchdog.bites == 0 and not other.closed and not call.cancelled


def test_a_stream_that_says_nothing_ends(hung: tuple[Hung, Watchdog]) -> None:
    call, watchdog = hung
    begun = time.monotonic()
    with pytest.raises(Replaced) as ended:
        next(Watched(watchdog, call, 60.0, patience=0.1))
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - begun < 1.1


def test_the_wait_that_ends_first_is_looked_after_first(hung: tuple[Hung, Watchdog]) -> None:
    call, watchdog = hung

    def wait() -> None:
        with pytest.raises(Replaced):
            next(Watched(watchdog, call, 60.0))

    other = threading.Thread(target=wait)
    other.start()
    time.sleep(0.05)
    begun = time.monotonic()
    with pytest.raises(Replaced):
        next(Watched(watchdog, call, 0.1))
    other.join(5)
    assert not other.is_alive() and time.monotonic() - begun < 1.2


def test_a_call_that_was_cancelled_by_its_caller_says_so(hung: tuple[Hung, Watchdog]) -> None:
    call, watchdog = hung
    call.close()
    with pytest.raises(Cancelled):
        next(Watched(watchdog, call, 60.0))
    assert watchdog.bites == 0


def test_other_calls_go_on_over_the_new_channel(server: CacheStoreServer) -> None:
    before = set(threading.enumerate())
    connection = Connection(server.address)
    connection.open()
    try:
        call = connection.watch(wire.WatchRequest(), 30.0, patience=0.3)
        with pytest.raises(Replaced):
            # a store that has nothing to say says so every second
            for _ in call:
                pass
        assert connection.call("Stats", wire.StatsRequest(), 5.0).incarnation
    finally:
        connection.close()
    assert not [one for one in set(threading.enumerate()) - before if one.name == "cachestore-watchdog"]
