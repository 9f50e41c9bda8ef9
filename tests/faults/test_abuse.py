"""B1 and B11: what no client of ours would send, or would send too slowly. Those who behave do not notice."""

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import grpc
import pytest

from cachestore.errors import CacheStoreError, Overloaded
from cachestore.service import convert_put
from cachestore.service.stream.frames import WRITE
from cachestore.store.base import Durability
from cachestore.testing import plans_of
from cachestore.wire import store_pb2 as wire_pb2
from tests.faults.calls import outcome, putting, reading
from tests.faults.flow import place
from tests.faults.http2 import CONTINUATION, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, frame, rst_stream
from tests.faults.values import prompt
from tests.faults.wire import SMALL, Wire, wire

HELLO = PREFACE + frame(SETTINGS)
# indexed: POST, http, then a literal path
CALL = b"\x83\x86\x44\x29/cachestore.v1.CacheStore/Lookup".ljust(43, b"x")

ATTACKS: dict[str, Callable[[], bytes]] = {
    "noise": lambda: random.Random(1).randbytes(1 << 20),
    "http/1.1": lambda: b"GET /metrics HTTP/1.1\r\nHost: store\r\n\r\n" * 100,
    "tls": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(508),
    "half a preface": lambda: PREFACE[:10],
    "rapid reset": lambda: (
        HELLO
        + b"".join(frame(HEADERS, CALL, END_HEADERS, stream) + rst_stream(stream, 8) for stream in range(1, 4_001, 2))
    ),
    # six times the headers that gRPC takes
    "continuation flood": lambda: HELLO + frame(HEADERS, CALL, 0, 1) + frame(CONTINUATION, b"\x00" * 10_000, 0, 1) * 10,
    "huge headers": lambda: (
        HELLO + frame(HEADERS, CALL, 0, 1) + frame(CONTINUATION, b"\x00\x01a\x7f\xff\xff\x7f", 4, 1)
    ),
    "ping flood": lambda: HELLO + frame(PING, bytes(8)) * 2_000,
    "settings flood": lambda: HELLO + frame(SETTINGS) * 2_000,
    "huge frame": lambda: HELLO + (1 << 24).to_bytes(4, "big")[1:] + b"\xff" * 1000,
}


def connect(address: str) -> socket.socket:
    """A connection of no client at all."""
    family, where = place(address)
    made = socket.socket(family)
    made.settimeout(2.0)
    made.connect(where)
    return made


@pytest.mark.parametrize("name", list(ATTACKS))
def test_b1_bytes_that_are_no_call_hurt_nobody_else(wired: Wire, name: str) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    attack = ATTACKS[name]()
    over = threading.Event()

    def again_and_again() -> None:
        # at a pace that leaves the others some of a small machine
        while not over.wait(0.02):
            with suppress(OSError), connect(wired.server.address) as raw:
                raw.sendall(attack)
                raw.recv(1 << 16)

    attackers = [threading.Thread(target=again_and_again) for _ in range(2)]
    for attacker in attackers:
        attacker.start()
    try:
        for _ in range(20):
            assert reading(wired.store, keys) == 4
    finally:
        over.set()
        for attacker in attackers:
            attacker.join(10)
    assert not any(attacker.is_alive() for attacker in attackers)
    with wired.client() as fresh:
        assert reading(fresh, keys) == 4


def test_n11_a_thousand_idle_connections_hurt_nobody_else(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    idle = [connect(wired.server.address) for _ in range(1000)]
    try:
        for number, one in enumerate(idle):
            # half of them begin and say no more
            if number % 2:
                one.sendall(PREFACE[: number % len(PREFACE)])
        assert reading(wired.store, keys) == 4
        with wired.client() as fresh:
            assert reading(fresh, keys) == 4
    finally:
        for one in idle:
            one.close()
    assert reading(wired.store, keys) == 4


def test_n11_more_streams_than_there_are_places_are_refused_and_the_rest_goes_on(transports: Sequence[str]) -> None:
    with wire(transports, max_concurrent=4) as wired:
        keys, blocks = prompt(SMALL, 2)
        assert putting(wired.store, keys, blocks) == ["stored"] * 2
        opened: list[object] = []
        refused = 0
        with grpc.insecure_channel(wired.server.address) as channel:
            watch = channel.stream_stream(WRITE)
            held = threading.Event()

            def silent(seed: int) -> Iterator[bytes]:
                # without a message it would not have a place at all
                yield reserved(seed, 1)
                held.wait(20)

            opened += [watch(silent(seed), timeout=20) for seed in range(100, 400)]
            until = time.monotonic() + 10.0
            while wired.server.calls.used < 4:
                assert time.monotonic() < until
                time.sleep(0.001)
            for _ in range(5):
                refused += isinstance(outcome(lambda: wired.store.stats(timeout=2.0), 2.0), Overloaded)
            assert refused == 5
            held.set()
        wired.at_rest()
        assert reading(wired.store, keys) == 2


def reserved(seed: int, count: int) -> bytes:
    """The request that reserves a prompt."""
    keys, blocks = prompt(SMALL, count, seed)
    asked = convert_put.Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None, None)
    return wire_pb2.WriteRequest(reserve=convert_put.reserve_message(asked)).SerializeToString()


def test_b11_puts_that_never_end_are_given_up_and_others_go_on(transports: Sequence[str]) -> None:
    with wire(transports, longest_call=3.0, max_concurrent=32) as wired:
        over = threading.Event()

        def one_reservation_and_no_more(seed: int) -> Iterator[bytes]:
            yield reserved(seed, 60)
            while not over.wait(0.2):
                # one byte a time, of a frame that never becomes whole
                piece = wire_pb2.PlaneFrame.Segment(
                    plane=0, encoding=wire_pb2.Encoding(stored_bytes=1024), offset=0, length=1
                )
                frame_ = wire_pb2.PlaneFrame(block=0, segments=[piece], data=b"x")
                yield wire_pb2.WriteRequest(frame=frame_).SerializeToString()
                over.wait(5)

        with grpc.insecure_channel(wired.server.address) as channel:
            put = channel.stream_stream(WRITE)
            slow = [put(one_reservation_and_no_more(100 + number), timeout=30) for number in range(17)]
            for call in slow:
                next(call)
            assert wired.held()["put_open"] == 17 * 60
            # others have their share meanwhile
            for seed in range(5):
                keys, blocks = prompt(SMALL, 4, seed)
                assert putting(wired.store, keys, blocks, 3.0) == ["stored"] * 4
                assert reading(wired.store, keys, 3.0) == 4
            wired.at_rest()
            over.set()
        assert not isinstance(outcome(lambda: wired.store.stats(), 10.0), CacheStoreError)
