"""A store that is away, freezes or dies: calls end in time, reads end early."""

import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import BlockSpec, Slot
from cachestore.errors import CacheStoreError, DeadlineExceeded, Unavailable
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Lease, Loaded, put_blocks
from cachestore.testing import plans_of, random_prompt, same, small_spec

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""


def answers_again(store: RemoteStore) -> None:
    """Waits until a call comes through."""
    until = time.monotonic() + 10
    while True:
        try:
            store.stats(timeout=1)
            return
        except (Unavailable, DeadlineExceeded):
            assert time.monotonic() < until


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        address = f"127.0.0.1:{once.getsockname()[1]}"
    keys, blocks = random_prompt(small_spec(), 1)
    with RemoteStore(address) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.lookup(keys, timeout=2),
            lambda: store.lease(keys, timeout=2),
            lambda: store.read(keys, timeout=2),
            lambda: store.put(keys.fingerprint, plans_of(blocks), timeout=2),
            lambda: store.stats(timeout=2),
        ]
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(Unavailable, match=f"{address}.*cachestore serve"):
                call()
            assert time.monotonic() - begun < 2 + 1


def test_a_store_that_is_not_open_says_so(server: CacheStoreServer) -> None:
    store = RemoteStore(server.address)
    with pytest.raises(Unavailable, match="not open"):
        store.stats()
    store.open()
    store.stats()
    store.close()
    store.close()
    with pytest.raises(Unavailable):
        store.stats()


def failed_after(call: Callable[[], object]) -> float:
    """Seconds until a call gave up."""
    begun = time.monotonic()
    with pytest.raises((DeadlineExceeded, Unavailable)):
        call()
    return time.monotonic() - begun


def test_a_frozen_server_does_not_hold_a_call(process: Callable[..., Any]) -> None:
    server = process()
    keys, blocks = random_prompt(small_spec(), 1)
    with RemoteStore(server.address) as store:
        calls: list[Callable[[], object]] = [
            lambda: store.lookup(keys, timeout=0.5),
            lambda: store.lease(keys, timeout=0.5),
            lambda: store.release(Lease(b"id", 1, 1.0), timeout=0.5),
            lambda: store.read(keys, timeout=0.5),
            lambda: store.put(keys.fingerprint, plans_of(blocks), timeout=0.5),
            lambda: store.delete(keys, timeout=0.5),
            lambda: store.clear(timeout=0.5),
            lambda: store.stats(timeout=0.5),
            lambda: store.members(timeout=0.5),
        ]
        store.stats()
        server.popen.send_signal(signal.SIGSTOP)
        state = Path(f"/proc/{server.popen.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        with ThreadPoolExecutor(len(calls)) as threads:
            for took in threads.map(failed_after, calls):
                assert took < 1.5
        server.popen.send_signal(signal.SIGCONT)
        answers_again(store)


@pytest.mark.slow
def test_a_server_that_freezes_amid_reading_and_writing(process: Callable[..., Any]) -> None:
    server = process()
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address, transports=("stream",)) as store:
        put_blocks(store, keys.fingerprint, blocks)
        begun = time.monotonic()
        with store.read(keys, timeout=3) as reading:
            iterator = iter(reading)
            next(iterator)
            server.popen.send_signal(signal.SIGSTOP)
            rest = list(iterator)
        assert time.monotonic() - begun < 4 and len(rest) < 11
        server.popen.send_signal(signal.SIGCONT)
        answers_again(store)
        store.delete(keys)
        begun = time.monotonic()
        with (
            pytest.raises(CacheStoreError),
            store.put(keys.fingerprint, plans_of(blocks), timeout=3) as put,
        ):
            server.popen.send_signal(signal.SIGSTOP)
            for index, block in enumerate(blocks):
                for plane, data in enumerate(block.data):
                    put.write(index, plane, data)
            put.commit()
        assert time.monotonic() - begun < 4


def test_a_server_killed_amid_reading_ends_the_read(process: Callable[..., Any]) -> None:
    server = process()
    keys, blocks = random_prompt(LARGE, 12)
    with RemoteStore(server.address, transports=("stream",)) as store:
        put_blocks(store, keys.fingerprint, blocks)
        begun = time.monotonic()
        with store.read(keys, timeout=8) as reading:
            loaded: list[Loaded] = []
            for one in reading:
                loaded.append(one)
                if len(loaded) == 1:
                    server.kill()
        assert 1 <= len(loaded) < 12 and time.monotonic() - begun < 8
        assert all(map(same, (block for block, _ in loaded), blocks))
        with pytest.raises(Unavailable):
            store.lookup(keys, timeout=2)


def test_a_server_killed_amid_writing_is_unavailable(process: Callable[..., Any]) -> None:
    server = process()
    keys, blocks = random_prompt(LARGE, 12)
    with (
        RemoteStore(server.address) as store,
        pytest.raises(Unavailable),
        store.put(keys.fingerprint, plans_of(blocks), timeout=8) as put,
    ):
        server.kill()
        for index, block in enumerate(blocks):
            for plane, data in enumerate(block.data):
                put.write(index, plane, data)
        put.commit()


@pytest.mark.slow
def test_a_restarted_server_is_found_again(process: Callable[..., Any]) -> None:
    first = process()
    with RemoteStore(first.address) as store:
        store.stats()
        first.kill()
        with pytest.raises(Unavailable):
            store.stats(timeout=1)
        process(port=int(first.address.rpartition(":")[2]))
        answers_again(store)
