"""N1 to N6: slow, stalled, broken and parted networks between a client and its store."""

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from cachestore.errors import CacheStoreError, DeadlineExceeded, Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from tests.faults.calls import heals, outcome, putting, reading
from tests.faults.http2 import boundaries
from tests.faults.injections import (
    BOTH,
    DOWN,
    UP,
    Bandwidth,
    BlackHole,
    Direction,
    HalfCloseAt,
    Injection,
    Latency,
    Record,
    Refuse,
    ResetAt,
    Slicer,
    Stall,
)
from tests.faults.values import prompt
from tests.faults.wire import LARGE, SMALL, Wire


@pytest.mark.parametrize("seconds", [0.001, 0.05])
def test_n1_latency_within_the_budget_costs_no_hit_and_no_second_try(wired: Wire, seconds: float) -> None:
    keys, blocks = prompt(SMALL, 8)
    with wired.proxy.inject(Latency(seconds=seconds, jitter=seconds)):
        assert putting(wired.store, keys, blocks) == ["stored"] * 8
        for _ in range(3):
            assert reading(wired.store, keys) == 8
    assert total(wired.direct.stats(), "read_blocks") == 24 and wired.proxy.connections == 1


def test_n1_latency_beyond_the_budget_ends_in_time(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 8)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 8
    assert reading(wired.store, keys) == 8
    with wired.proxy.inject(Latency(seconds=0.5, jitter=0.1)):
        assert isinstance(reading(wired.store, keys, 0.3), DeadlineExceeded)
        assert isinstance(outcome(lambda: wired.store.lookup(keys, timeout=0.3), 0.3), DeadlineExceeded)
        assert isinstance(putting(wired.store, *prompt(SMALL, 2, 2), 0.3), DeadlineExceeded)
    assert reading(wired.store, keys) == 8


def test_n2_a_narrow_line_gives_what_came_by_the_deadline(wired: Wire) -> None:
    keys, blocks = prompt(LARGE, 8)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 8
    with wired.proxy.inject(Bandwidth(BOTH, 6 << 20)):
        got = reading(wired.store, keys, 0.6)
        assert isinstance(got, CacheStoreError) or got < 8
        assert isinstance(putting(wired.store, *prompt(LARGE, 8, 2), 0.6), CacheStoreError)
    assert reading(wired.store, keys) == 8


def reset_reads(wired: Wire, offsets: Callable[[bytes], list[int]]) -> None:
    """Reads through connections that are reset at each of the offsets that `offsets` chooses of an unbroken one."""
    keys, blocks = prompt(SMALL, 6)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 6
    with wired.client() as store, wired.proxy.inject(Record(DOWN)) as record:
        assert reading(store, keys) == 6
    for at in offsets(bytes(record.heard)):
        # a client of its own, so that the offset is that of a new connection
        with wired.client() as store, wired.proxy.inject(ResetAt(DOWN, at)):
            got = reading(store, keys, 5.0)
            assert isinstance(got, Unavailable) or got == 6, (at, got)
    assert reading(wired.store, keys) == 6


def test_n3_reset_at_some_byte_of_a_read_costs_no_block(wired: Wire) -> None:
    def some(heard: bytes) -> list[int]:
        edges = list(boundaries(heard))
        return random.Random(3).sample(edges, 5) + random.Random(4).sample(range(len(heard)), 5)

    reset_reads(wired, some)


@pytest.mark.slow
def test_n3_reset_at_any_byte_of_a_read_costs_no_block(wired: Wire) -> None:
    def any_of_them(heard: bytes) -> list[int]:
        edges = [at for edge in boundaries(heard) for at in (edge - 1, edge, edge + 1, edge + 9)]
        inside = random.Random(5).sample(range(len(heard)), 60)
        return sorted({at for at in edges + inside if 0 <= at < len(heard)})

    reset_reads(wired, any_of_them)


def reset_put(wired: Wire, at: int, seed: int) -> None:
    keys, blocks = prompt(SMALL, 3, seed)
    with wired.client() as store:
        injection = ResetAt(UP, at)
        with wired.proxy.inject(injection):
            answer = putting(store, keys, blocks, 5.0)
        # a connection that ends before it carried a call is made anew, and nobody notices
        assert isinstance(answer, Unavailable) or answer == ["stored"] * 3, (at, answer)
        # the commit may have arrived though its answer did not; half a put may not
        wired.at_rest()
        assert wired.direct.lookup(keys).ready in (0, 3)
        heals(lambda: store.stats(timeout=1.0))
        assert putting(store, keys, blocks) in (["stored"] * 3, ["already_exists"] * 3)
        assert reading(store, keys) == 3


def test_n3_reset_at_some_byte_of_a_put_leaves_all_or_nothing(wired: Wire) -> None:
    with wired.client() as store, wired.proxy.inject(Record(UP)) as record:
        assert putting(store, *prompt(SMALL, 3, 99)) == ["stored"] * 3
    # the last bytes may be an acknowledgement that nobody misses
    for number, at in enumerate(random.Random(6).sample(range(len(record.heard) - 300), 5)):
        reset_put(wired, at, 100 + number)


@pytest.mark.slow
def test_n3_reset_at_any_byte_of_a_put_leaves_all_or_nothing(wired: Wire) -> None:
    with wired.client() as store, wired.proxy.inject(Record(UP)) as record:
        assert putting(store, *prompt(SMALL, 3, 99)) == ["stored"] * 3
    end = len(record.heard) - 300
    edges = [at for at in boundaries(bytes(record.heard)) if at < end]
    for number, at in enumerate(edges + random.Random(7).sample(range(end), 40)):
        reset_put(wired, at, 100 + number)


def test_n3_resets_again_and_again_end_the_read_with_a_prefix(wired: Wire) -> None:
    keys, blocks = prompt(LARGE, 8)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 8
    with wired.proxy.inject(ResetAt(DOWN, 1 << 20, every=True)):
        got = reading(wired.store, keys, 5.0)
    assert isinstance(got, Unavailable) or got < 8
    assert heals(lambda: wired.store.lookup(keys, timeout=1.0)) < 5.0
    assert reading(wired.store, keys) == 8


@pytest.mark.parametrize("direction", [pytest.param(UP, marks=pytest.mark.slow), DOWN, BOTH])
def test_n4_a_stall_holds_no_call_past_its_deadline(wired: Wire, direction: Direction) -> None:
    keys, blocks = prompt(LARGE, 4)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 4
    wired.store.lookup(keys)
    with wired.proxy.inject(Stall(direction, 2000)):
        got = reading(wired.store, keys, 0.5)
        assert isinstance(got, CacheStoreError) or got < 4 or direction is UP
        assert isinstance(putting(wired.store, *prompt(LARGE, 4, 2), 0.5), CacheStoreError)
    assert heals(lambda: wired.store.lookup(keys, timeout=1.0)) < 5.0
    assert reading(wired.store, keys) == 4


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_n4_a_half_closed_connection_costs_no_block(wired: Wire, direction: Direction) -> None:
    keys, blocks = prompt(SMALL, 6)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 6
    with wired.client() as store, wired.proxy.inject(HalfCloseAt(direction, 400)):
        got = reading(store, keys, 3.0)
        assert isinstance(got, Unavailable) or got == 6
    assert reading(wired.store, keys) == 6


def test_n4_a_slow_reader_is_cut_off_at_its_deadline(wired: Wire) -> None:
    keys, blocks = prompt(LARGE, 8)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 8
    with wired.proxy.inject(Stall(DOWN, 1 << 20)):
        slow = threading.Thread(target=lambda: outcome(lambda: reading(wired.store, keys, 1.0), 1.0))
        slow.start()
        # others do not notice
        assert reading(wired.direct, keys, 5.0) == 8
        slow.join(10)
        until = time.monotonic() + 10.0
        while wired.server.calls.used or wired.server.bytes_in_flight.used:
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.mark.parametrize("size", [1, 7])
def test_n5_segments_of_a_byte_change_nothing(wired: Wire, size: int) -> None:
    keys, blocks = prompt(SMALL, 2)
    with wired.proxy.inject(Slicer(BOTH, size)):
        assert putting(wired.store, keys, blocks) == ["stored"] * 2
        assert reading(wired.store, keys) == 2


PARTITIONS: dict[str, Callable[[], Injection]] = {
    "lost both ways": lambda: BlackHole(BOTH),
    "lost on the way there": lambda: BlackHole(UP),
    "lost on the way back": lambda: BlackHole(DOWN),
    "held up": lambda: Stall(BOTH),
    "refused": lambda: Refuse(),
}


@pytest.mark.parametrize(
    "name",
    [
        "lost both ways",
        "held up",
        "refused",
        pytest.param("lost on the way there", marks=pytest.mark.slow),
        pytest.param("lost on the way back", marks=pytest.mark.slow),
    ],
)
def test_n6_a_partition_ends_calls_in_time_and_heals(wired: Wire, name: str) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    with wired.proxy.inject(PARTITIONS[name]()):
        if name == "refused":
            wired.proxy.reset()
        assert isinstance(reading(wired.store, keys, 0.4), CacheStoreError)
        assert isinstance(putting(wired.store, *prompt(SMALL, 2, 2), 0.4), CacheStoreError)
    assert heals(lambda: wired.store.lookup(keys, timeout=0.5)) < 5.0
    assert reading(wired.store, keys) == 4


@pytest.mark.slow
def test_n6_a_flapping_network_latches_nothing(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    for number in range(6):
        with wired.proxy.inject(BlackHole(BOTH) if number % 2 else Stall(BOTH)):
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                got = reading(wired.store, keys, 0.4)
                assert isinstance(got, CacheStoreError)
        assert heals(lambda: wired.store.lookup(keys, timeout=0.5)) < 5.0
        assert reading(wired.store, keys) == 4


@pytest.mark.parametrize("address", ["no.such.host.invalid:1", "127.0.0.1:1", "[::1]:1", "unix:/nowhere/store.sock"])
def test_n10_an_address_without_a_store_is_unavailable_in_time(address: str, transports: Sequence[str]) -> None:
    keys, blocks = prompt(SMALL, 1)
    with RemoteStore(address, transports=transports) as store:
        assert isinstance(reading(store, keys, 1.0), Unavailable | DeadlineExceeded)
        assert isinstance(putting(store, keys, blocks, 1.0), Unavailable | DeadlineExceeded)
