"""N7 to N9: bytes that break without TLS, calls that are lost or come twice, and ends that HTTP/2 knows."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from cachestore.errors import CacheStoreError, DeadlineExceeded
from cachestore.metrics import total
from cachestore.service import convert_put, server
from cachestore.service.stream.frames import WRITE
from cachestore.store.base import Durability
from cachestore.testing import plans_of, write_blocks
from cachestore.wire import store_pb2 as wire_pb2
from tests.faults.calls import heals, outcome, putting, reading
from tests.faults.http2 import goaway, rst_stream
from tests.faults.injections import (
    DOWN,
    UP,
    AtByte,
    BlackHole,
    DropAt,
    DuplicateAt,
    FlipAt,
    InsertAt,
    Record,
    SpliceAt,
)
from tests.faults.values import prompt
from tests.faults.wire import SMALL, Wire, wire

Make = Callable[[int, random.Random, bytes], AtByte]

DAMAGES: dict[str, Make] = {
    "flipped": lambda at, chance, other: FlipAt(DOWN, at, bit=chance.randrange(8)),
    "dropped": lambda at, chance, other: DropAt(DOWN, at, length=chance.choice((1, 9, 100))),
    "duplicated": lambda at, chance, other: DuplicateAt(DOWN, at, length=chance.choice((1, 9, 100))),
    "spliced": lambda at, chance, other: SpliceAt(DOWN, at, other=other[at // 2 :][:1000]),
}

LATE_TO_ACT = ("dropped", "duplicated")
"""Those after which a call waits for its deadline."""


def damaged_reads(wired: Wire, name: str, times: int, timeout: float, seed: int) -> None:
    """Reads over connections whose bytes are damaged once, at a random place."""
    keys, blocks = prompt(SMALL, 4)
    other, values = prompt(SMALL, 4, 2)
    assert putting(wired.direct, keys, blocks) == putting(wired.direct, other, values) == ["stored"] * 4
    with wired.client() as store, wired.proxy.inject(Record(DOWN)) as record:
        assert reading(store, other) == 4
    heard = bytes(record.heard)
    chance = random.Random(seed)
    for _ in range(times):
        with wired.client() as store:
            injection = DAMAGES[name](chance.randrange(len(heard)), chance, heard)
            wired.proxy.begin(injection)
            got = reading(store, keys, timeout)
            found = outcome(lambda one=store: one.lookup(keys, timeout=timeout), timeout)  # type: ignore[misc]
            until = time.monotonic() + 10.0
            while not injection.acted and time.monotonic() < until:
                # what was late on a busy machine did not bring as many bytes
                got = reading(store, keys, timeout)
            wired.proxy.end(injection)
            assert injection.acted
            assert isinstance(got, CacheStoreError) or 0 <= got <= 4
            assert isinstance(found, CacheStoreError) or 0 <= found.ready <= 4, found
        if wired.direct.lookup(keys).ready < 4:
            # a verdict that broke on its way may have cost a good copy, which is a miss and nothing worse
            putting(wired.direct, keys, blocks)
    assert reading(wired.store, keys) == 4


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LATE_TO_ACT else name for name in DAMAGES]
)
def test_n7_damaged_answers_are_misses_or_errors(wired: Wire, name: str) -> None:
    damaged_reads(wired, name, 6, 0.4, 7)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DAMAGES))
def test_n7_many_damaged_answers_are_misses_or_errors(wired: Wire, name: str) -> None:
    damaged_reads(wired, name, 150, 0.4, 8)


def flipped_puts(wired: Wire, times: int, seed: int) -> None:
    """Puts in which one bit is wrong: what can be read afterwards is right."""
    with wired.client() as store, wired.proxy.inject(Record(UP)) as record:
        assert putting(store, *prompt(SMALL, 2, 1)) == ["stored"] * 2
    chance = random.Random(seed)
    for number in range(times):
        keys, blocks = prompt(SMALL, 2, 100 + number)
        injection = FlipAt(UP, chance.randrange(len(record.heard) - 200), bit=chance.randrange(8))
        with wired.client() as store:
            wired.proxy.begin(injection)
            outcome(lambda a=store, b=keys, c=blocks: putting(a, b, c, 0.5), 0.5)  # type: ignore[misc]
            until = time.monotonic() + 10.0
            while not injection.acted and time.monotonic() < until:
                # what was late on a busy machine did not bring as many bytes
                outcome(lambda one=store: one.stats(timeout=0.5), 0.5)  # type: ignore[misc]
            wired.proxy.end(injection)
        assert injection.acted
        assert reading(wired.direct, keys) in range(3)
        # a wrong bit in the reservation may have made blocks that nobody can use; they go like others
        wired.at_rest()
        wired.direct.delete(keys)
        assert putting(wired.direct, keys, blocks) == ["stored"] * 2
        assert reading(wired.direct, keys) == 2, injection


def test_n7_a_put_with_a_wrong_bit_is_right_or_not_there(wired: Wire) -> None:
    flipped_puts(wired, 12, 9)


@pytest.mark.slow
def test_n7_many_puts_with_a_wrong_bit_are_right_or_not_there(wired: Wire) -> None:
    flipped_puts(wired, 250, 10)


def test_n8_a_lost_request_changes_nothing(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 2)
    wired.store.stats()
    with wired.proxy.inject(BlackHole(UP)):
        assert isinstance(putting(wired.store, keys, blocks, 0.4), DeadlineExceeded)
    assert wired.direct.lookup(keys).ready == 0 == total(wired.direct.stats(), "put_blocks")
    assert heals(lambda: wired.store.stats(timeout=0.5)) < 5.0
    assert putting(wired.store, keys, blocks) == ["stored"] * 2


def test_n8_a_lost_answer_does_not_make_two_of_one(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 2)

    def lost() -> list[str]:
        with wired.store.put(keys.fingerprint, plans_of(blocks), timeout=0.6) as put:
            write_blocks(put, blocks)
            with wired.proxy.inject(BlackHole(DOWN)):
                put.commit()
        raise AssertionError("nobody heard that")

    assert isinstance(outcome(lost, 0.6), DeadlineExceeded)
    assert heals(lambda: wired.store.stats(timeout=0.5)) < 5.0
    assert putting(wired.store, keys, blocks) == ["already_exists"] * 2
    figures = wired.direct.stats()
    assert total(figures, "put_stored") == 2 == total(figures, "put_already_exists")
    assert total(figures, "tier_blocks", tier="cpu") == 2 == reading(wired.store, keys)


def test_n8_one_request_twice_in_flight_is_one_block(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 2)
    reservation = convert_put.Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None, None)
    with wired.client() as store, wired.proxy.inject(Record(UP)) as record:
        assert putting(store, *prompt(SMALL, 2, 50)) == ["stored"] * 2
    assert record.heard
    reserve = wire_pb2.WriteRequest(reserve=convert_put.reserve_message(reservation)).SerializeToString()
    barrier = threading.Barrier(2)
    opened: list[list[int]] = []

    def requests(held: threading.Event) -> Iterator[bytes]:
        barrier.wait(5)
        yield reserve
        held.wait(5)

    def twin(channel: grpc.Channel, held: threading.Event) -> None:
        call = channel.stream_stream(WRITE, response_deserializer=wire_pb2.WriteResponse.FromString)
        answers: Any = call(requests(held), timeout=5)
        opened.append([answer.status for answer in next(answers).answers])
        held.wait(5)
        answers.cancel()

    with grpc.insecure_channel(wired.proxy.address) as one, grpc.insecure_channel(wired.proxy.address) as two:
        held = threading.Event()
        twins = [threading.Thread(target=twin, args=(channel, held)) for channel in (one, two)]
        for thread in twins:
            thread.start()
        while len(opened) < 2 and any(thread.is_alive() for thread in twins):
            held.wait(0.01)
        held.set()
        for thread in twins:
            thread.join(10)
    assert sorted(opened) == [[wire_pb2.WANTED] * 2, [wire_pb2.IN_PROGRESS] * 2]
    wired.at_rest()
    assert putting(wired.store, keys, blocks) == ["stored"] * 2


ENDS = {
    "goaway": goaway(),
    "goaway of streams that run": goaway(last=0),
    "too many pings": goaway(11, text=b"too_many_pings"),
    "refused stream": rst_stream(3, 7),
    "stream cancelled": rst_stream(3, 8),
    "internal error": rst_stream(3, 2),
}


@pytest.mark.parametrize("name", list(ENDS))
def test_n9_what_http2_says_ends_a_stream_and_nothing_else(wired: Wire, name: str) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 4
    with wired.client() as store:
        # the first call's stream is 1, the next one's 3; a quiet connection is between two frames
        store.lookup(keys)
        with wired.proxy.inject(InsertAt(DOWN, 0, other=ENDS[name])):
            got = reading(store, keys, 2.0)
        assert isinstance(got, CacheStoreError) or got in range(5)
        assert heals(lambda: store.lookup(keys, timeout=0.5)) < 5.0
        assert reading(store, keys) == 4


@pytest.mark.slow
def test_n9_connections_that_may_not_grow_old_cost_no_block(
    monkeypatch: pytest.MonkeyPatch, transports: Sequence[str]
) -> None:
    age = (("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 100))
    monkeypatch.setattr(server, "SERVER", (*server.SERVER, *age))
    with wire(transports) as wired:
        keys, blocks = prompt(SMALL, 4)
        assert putting(wired.direct, keys, blocks) == ["stored"] * 4
        for _ in range(300):
            assert reading(wired.store, keys) == 4
        assert wired.proxy.connections > 5
