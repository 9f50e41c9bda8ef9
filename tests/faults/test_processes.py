"""P1 to P8: clients and stores that are killed, stopped, ended and started again.

P5, a second leader, has no counterpart: no process here leads others.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from cachestore.errors import CacheStoreError, LeaseExpired, Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member
from cachestore.testing import plans_of
from tests.faults.calls import durably, heals, heals_when, outcome, putting, reading
from tests.faults.processes import Process, StoreProcess
from tests.faults.values import prompt
from tests.faults.wire import LARGE, LEASE, SMALL, Wire

MEMORY = {"name": "cpu", "capacity": "64MiB"}


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Starts processes; all are ended after the test."""
    started: list[Process] = []

    def begin(kind: Callable[..., Process], *arguments: Any) -> Process:
        started.append(kind(*arguments))
        return started[-1]

    yield begin
    for one in started:
        one.kill()


@pytest.fixture
def stored(start: Callable[..., Any], tmp_path: Path) -> StoreProcess:
    """A store with memory and a disk."""
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "64MiB"}
    process: StoreProcess = start(
        StoreProcess, {"tiers": [MEMORY, disk], "codecs": {"name": "raw"}, "store": {"lease": LEASE}}
    )
    return process


@pytest.fixture
def remote(stored: StoreProcess, transports: Sequence[str]) -> Iterator[RemoteStore]:
    """Its client."""
    with RemoteStore(stored.address, transports=transports) as store:
        yield store


@pytest.mark.parametrize(
    "step",
    [
        "committed one",
        *(
            pytest.param(step, marks=pytest.mark.slow)
            for step in ("connected", "reserved", "written", "amid a block", "committed")
        ),
    ],
)
def test_p1_a_writer_killed_at_any_step_leaves_what_it_committed(
    wired: Wire, start: Callable[..., Any], step: str
) -> None:
    keys, blocks = prompt(SMALL, 3)
    writer = start(
        Process, "faults/client_process.py", [wired.proxy.address, wired.transports, "write", step, "small", 3, 1]
    )
    committed = {"committed one": 1, "committed": 3}.get(step, 0)
    assert wired.direct.lookup(keys).ready == committed
    writer.kill()
    wired.at_rest(5.0)
    assert wired.direct.lookup(keys) == wired.direct.lookup(keys.first(committed))
    assert reading(wired.direct, keys) == committed
    assert putting(wired.direct, keys, blocks) == ["already_exists"] * committed + ["stored"] * (3 - committed)


@pytest.mark.parametrize("step", ["amid a block", pytest.param("leased", marks=pytest.mark.slow)])
def test_p2_a_reader_killed_amid_its_read_holds_nothing(wired: Wire, start: Callable[..., Any], step: str) -> None:
    keys, blocks = prompt(LARGE, 6)
    assert putting(wired.direct, keys, blocks) == ["stored"] * 6
    reader = start(
        Process, "faults/client_process.py", [wired.proxy.address, wired.transports, "read", step, "large", 6, 1]
    )
    assert wired.held()["leases_open"] == 1
    reader.kill()
    until = time.monotonic() + 5.0
    while wired.server.calls.used or wired.server.bytes_in_flight.used:
        assert time.monotonic() < until
        time.sleep(0.01)
    # the lease of a reader that might come back runs out
    wired.at_rest(LEASE + 1.0)
    assert reading(wired.direct, keys) == 6


def test_p3_a_killed_store_keeps_what_it_acknowledged_as_durable(
    start: Callable[..., Any], stored: StoreProcess, remote: RemoteStore
) -> None:
    kept = [prompt(SMALL, 4, seed) for seed in range(5)]
    for keys, blocks in kept:
        assert durably(remote, keys, blocks) == ["stored"] * 4
    keys, blocks = prompt(LARGE, 8, 9)
    with remote.put(keys.fingerprint, plans_of(blocks), timeout=5.0) as put:
        put.write(0, 0, blocks[0].data[0])
        stored.kill()
        lost = outcome(put.commit, 5.0)
        assert isinstance(lost, CacheStoreError)
    assert isinstance(outcome(lambda: remote.lookup(keys, timeout=1.0), 1.0), Unavailable)
    start(stored.again)
    assert heals(lambda: remote.lookup(keys, timeout=1.0)) < 5.0
    assert [reading(remote, keys) for keys, _ in kept] == [4] * 5
    assert remote.lookup(keys).ready == 0 == total(remote.stats(), "data_loss")


def stopped(stored: StoreProcess, remote: RemoteStore, seconds: float) -> None:
    """Stops the store amid a put and a lease, and lets it go on."""
    keys, blocks = prompt(SMALL, 4)
    assert putting(remote, keys, blocks) == ["stored"] * 4
    lease = remote.lease(keys)
    half, values = prompt(SMALL, 4, 2)
    with remote.put(half.fingerprint, plans_of(values), timeout=2.0) as put:
        for plane, data in enumerate(values[0].data):
            put.write(0, plane, data)
        stored.stop()
        frozen = time.monotonic()
        assert isinstance(outcome(put.commit, 2.0), CacheStoreError)
    assert isinstance(reading(remote, keys, 0.3), CacheStoreError)
    time.sleep(max(0.0, frozen + seconds - time.monotonic()))
    stored.go_on()
    assert heals(lambda: remote.lookup(keys, timeout=1.0)) < 5.0
    assert isinstance(outcome(lambda: remote.renew(lease.id, 1.0), 10.0), LeaseExpired)
    # memory is used anew, and nothing that was late lands in it
    for seed in range(10, 30):
        more, others = prompt(LARGE, 2, seed)
        assert putting(remote, more, others) == ["stored"] * 2
        assert reading(remote, more) == 2
    # the commit that was under way may be done, half of it may not
    assert reading(remote, half) in (0, 1)


def test_p4_a_store_that_stops_for_a_moment_lands_nothing_late(stored: StoreProcess, remote: RemoteStore) -> None:
    stopped(stored, remote, LEASE + 0.1)


@pytest.mark.slow
def test_p4_a_store_that_stops_for_half_a_minute_lands_nothing_late(stored: StoreProcess, remote: RemoteStore) -> None:
    stopped(stored, remote, 30.0)


@pytest.mark.slow
def test_p4_a_store_that_freezes_is_noticed_long_before_the_deadline(stored: StoreProcess, remote: RemoteStore) -> None:
    keys, _ = prompt(SMALL, 4)
    # just after a call and long after one: pings begin when nothing else is heard
    for quiet in (0.0, 1.0, 2.5):
        heals(lambda: remote.lookup(keys, timeout=1.0))
        time.sleep(quiet)
        stored.stop()
        begun = time.monotonic()
        noticed = outcome(lambda: remote.lookup(keys, timeout=15.0), 15.0)
        assert isinstance(noticed, Unavailable) and time.monotonic() - begun < 5.0
        stored.go_on()


def test_p6_a_store_told_to_end_under_load_ends_in_order(stored: StoreProcess, remote: RemoteStore) -> None:
    keys, blocks = prompt(LARGE, 4)
    assert putting(remote, keys, blocks) == ["stored"] * 4
    errors: list[CacheStoreError] = []

    def load(seed: int) -> None:
        while len(errors) < 3:
            for done in (reading(remote, keys, 2.0), putting(remote, *prompt(SMALL, 2, seed), 2.0)):
                if isinstance(done, CacheStoreError):
                    errors.append(done)

    threads = [Thread(target=load, args=(seed,)) for seed in range(2, 5)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert stored.end(10.0) == 0
    # a second of grace, and one to end in
    assert time.monotonic() - begun < 2.0 + 1.0
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert {type(error).__name__ for error in errors} <= {"Unavailable", "Aborted", "DeadlineExceeded"}


@pytest.mark.slow
def test_p7_a_store_in_a_crash_loop_costs_its_clients_nothing(
    start: Callable[..., Any], stored: StoreProcess, remote: RemoteStore
) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert durably(remote, keys, blocks) == ["stored"] * 4
    held: list[int] = []
    for _ in range(10):
        stored.kill()
        assert isinstance(reading(remote, keys, 0.5), CacheStoreError)
        stored = start(stored.again)
        assert heals(lambda: remote.lookup(keys, timeout=0.5)) < 5.0
        assert reading(remote, keys) == 4
        held.append(len(list(Path("/proc/self/fd").iterdir())) + len(list(Path("/proc/self/task").iterdir())))
    assert max(held[5:]) <= max(held[:3]) + 3, held


def test_p8_a_store_that_restarts_between_two_heartbeats_is_noticed(
    start: Callable[..., Any], stored: StoreProcess, remote: RemoteStore
) -> None:
    keys, blocks = prompt(SMALL, 2)
    assert putting(remote, keys, blocks) == ["stored"] * 2
    lease = remote.lease(keys, ttl=60.0)
    beat = Heartbeat(remote, Member("prefill", "p", "127.0.0.1:1", "here", b"1"), lambda: 0, every=0.3)
    beat.open()
    try:
        heals_when(lambda: remote.members()[1])
        stored.kill()
        start(stored.again)
        heals(lambda: remote.stats(timeout=0.5))
        # nothing of the old one is believed by the new one
        assert isinstance(outcome(lambda: remote.renew(lease.id, 1.0), 10.0), LeaseExpired)
        heals_when(lambda: [member.name for member in remote.members()[1]] == ["p"])
    finally:
        beat.close()
