"""Processors and interpreters that others keep to themselves: calls end in time, and nobody is taken for dead."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from threading import Thread

import pytest

from cachestore.service.client import RemoteStore
from cachestore.service.heartbeat import Heartbeat
from cachestore.service.members import Member
from tests.faults.calls import heals_when, putting, reading
from tests.faults.processes import StoreProcess
from tests.faults.values import prompt
from tests.faults.wire import SMALL

LOOP = "import sys, threading\nthreading.Thread(target=sys.stdin.read, daemon=True).start()\nwhile True: pass"
SECONDS = 4.0


@pytest.fixture
def remote(transports: Sequence[str]) -> Iterator[RemoteStore]:
    """A client of a store in another process."""
    process = StoreProcess({"tiers": [{"name": "cpu", "capacity": "64MiB"}], "codecs": {"name": "raw"}})
    try:
        with RemoteStore(process.address, transports=transports) as store:
            yield store
    finally:
        process.kill()


def held_up(hold: Thread, remote: RemoteStore) -> None:
    """While `hold` runs, puts and reads end well and in time, and a member that reports stays one."""
    beat = Heartbeat(remote, Member("prefill", "p", "127.0.0.1:1", "here", b"1"), lambda: 0)
    beat.open()
    try:
        heals_when(lambda: remote.members()[1])
        hold.start()
        seed, until = 0, time.monotonic() + SECONDS
        while hold.is_alive() or time.monotonic() < until:
            keys, blocks = prompt(SMALL, 4, seed := seed + 1)
            assert putting(remote, keys, blocks) == ["stored"] * 4
            assert reading(remote, keys) == 4
            assert [member.name for member in remote.members()[1]] == ["p"]
    finally:
        hold.join()
        beat.close()


@pytest.mark.slow
def test_m3_busy_loops_beside_it_cost_no_call_its_deadline(remote: RemoteStore) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", LOOP], stdin=subprocess.PIPE))
            stack.callback(loop.kill)
        held_up(Thread(target=time.sleep, args=(SECONDS,)), remote)


@pytest.mark.slow
def test_m3_a_thread_that_keeps_the_interpreter_costs_no_call_its_deadline(remote: RemoteStore) -> None:
    count = 1_000_000
    while (took := timed(count)) < 0.2:
        count *= 2
    # one call into the interpreter's own code gives the lock to nobody before it is done
    held_up(Thread(target=timed, args=(int(count * 2.0 / took),)), remote)


def timed(count: int) -> float:
    """Seconds that one such call takes."""
    begun = time.monotonic()
    sum(range(count))
    return time.monotonic() - begun
