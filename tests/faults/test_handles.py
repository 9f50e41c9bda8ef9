"""B9 and B13: leases and puts that somebody guesses or keeps; what names do to messages, logs and figures."""

import logging
import os
import time

import pytest

from cachestore.errors import CacheStoreError, InvalidArgument, LeaseExpired
from cachestore.store.base import Lease
from cachestore.testing import plans_of
from tests.faults.calls import outcome, putting, reading
from tests.faults.values import prompt
from tests.faults.wire import LEASE, SMALL, Wire


def test_b9_a_guessed_lease_is_no_lease(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    lease = wired.store.lease(keys)
    changed = bytes([lease.id[0] ^ 1]) + lease.id[1:]
    for guess in (os.urandom(16), bytes(16), changed, lease.id[::-1], lease.id[:15], lease.id + b"x"):
        wrong = Lease(guess, 4, 1.0)
        with pytest.raises((LeaseExpired, InvalidArgument)):
            wired.store.release(wrong)
        with pytest.raises((LeaseExpired, InvalidArgument)):
            wired.store.renew(guess, 1.0)
        assert isinstance(reading(wired.store, keys, lease=wrong), LeaseExpired | InvalidArgument)
    assert reading(wired.store, keys, lease=lease) == 4


def test_b9_a_lease_that_is_over_gives_no_bytes_of_what_came_after(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    used, late = wired.store.lease(keys), wired.store.lease(keys, ttl=0.2)
    wired.store.release(used)
    time.sleep(0.3)
    assert wired.store.delete(keys) == 4
    # what takes the place in memory
    others, values = prompt(SMALL, 8, 2)
    assert putting(wired.store, others, values) == ["stored"] * 8
    for stale in (used, late):
        for chain in (keys, others):
            assert isinstance(reading(wired.store, chain, lease=stale), LeaseExpired)
        with pytest.raises(LeaseExpired):
            wired.store.renew(stale.id, 1.0)


def test_b9_a_lease_covers_the_blocks_it_was_given_for_and_no_others(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    others, values = prompt(SMALL, 4, 2)
    assert putting(wired.store, keys, blocks) == putting(wired.store, others, values) == ["stored"] * 4
    lease = wired.store.lease(keys)
    got = reading(wired.store, others, lease=lease)
    assert isinstance(got, CacheStoreError) or got == 0
    assert reading(wired.store, keys, lease=lease) == 4


def test_b9_handles_of_another_namespace_are_unknown(wired: Wire) -> None:
    other = wired.tiered.namespace("other")
    keys, blocks = prompt(SMALL, 2)
    assert putting(other, keys, blocks) == ["stored"] * 2
    lease = other.lease(keys)
    assert wired.store.lookup(keys).ready == 0 == reading(wired.store, keys)
    assert isinstance(reading(wired.store, keys, lease=lease), LeaseExpired)
    with pytest.raises(LeaseExpired):
        wired.store.renew(lease.id, 1.0)
    with pytest.raises(LeaseExpired):
        wired.store.release(lease)
    more, values = prompt(SMALL, 2, 2)
    with other.put(more.fingerprint, plans_of(values)) as put:
        assert wired.store.abort(put.id) == 0
        assert other.lookup(more).writing == 2
    assert wired.store.delete(keys) == 0 == wired.store.clear()
    assert reading(other, keys, lease=lease) == 2


def test_b9_a_lease_outlives_neither_its_time_nor_its_block(wired: Wire) -> None:
    keys, blocks = prompt(SMALL, 4)
    assert putting(wired.store, keys, blocks) == ["stored"] * 4
    lease = wired.store.lease(keys)
    time.sleep(LEASE + 0.1)
    assert isinstance(reading(wired.store, keys, lease=lease), LeaseExpired)
    assert reading(wired.store, keys) == 4


NAMES = ["a\nERROR all is lost", "\x1b[31mred", "x" * 300, "\u202eright to left", "a\x00b"]


def test_b13_names_break_neither_logs_nor_messages_nor_figures(wired: Wire, caplog: pytest.LogCaptureFixture) -> None:
    keys, blocks = prompt(SMALL, 2)
    assert putting(wired.store, keys, blocks) == ["stored"] * 2
    caplog.set_level(logging.DEBUG, "cachestore")
    outcome(lambda: wired.store.clear("warm up"), 10.0)
    before = {(figure.name, figure.labels) for figure in wired.store.stats()}
    for name in [*NAMES, *(f"tier{number}" for number in range(100))]:
        for call in (lambda name=name: wired.store.clear(name), lambda name=name: wired.store.members(name)):
            done = outcome(call, 10.0)  # type: ignore[arg-type]
            assert not isinstance(done, CacheStoreError) or str(done).isprintable(), done
    added = {(figure.name, figure.labels) for figure in wired.store.stats()} - before
    assert len(added) < 10, added
    assert all(record.getMessage().isprintable() for record in caplog.records if record.name.startswith("cachestore"))
