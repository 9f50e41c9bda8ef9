"""Shared memory that is used again, damaged, or no longer protected: never a wrong byte."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared import source as shared_source
from cachestore.store.base import Verdict, put_blocks
from cachestore.store.local_reading import decoded
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, random_prompt, same, small_spec
from tests.service.sessions import LARGE, SHARED


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("by", ["others", "nobody"])
def test_memory_that_is_used_again_is_a_miss(
    tiered: TieredStore, shared: RemoteStore, monkeypatch: pytest.MonkeyPatch, when: str, by: str
) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    others, theirs = random_prompt(LARGE, 1, seed=2)
    put_blocks(shared, keys.fingerprint, blocks)

    def used_again() -> None:
        with tiered.index.changed:
            for holding in list(tiered.leases._open.values()):
                tiered.leases.end(holding)
        assert shared.delete(keys) == 1
        if by == "others":
            # into memory that another one may take: the same slot, since it is the only free one of its size
            local = tiered.namespace("default")
            place = tiered.memory.slabs(local.namespace)[0]
            assert not place.used
            put_blocks(shared, others.fingerprint, theirs)

    def slowly(header: Any, payload: Any, *more: Any) -> Block:
        if when == "before":
            used_again()
        if when == "during":
            copied = payload.copy()
            used_again()
            # what a copy sees that is half done when the memory is used again
            copied[copied.nbytes // 2 :] = payload[copied.nbytes // 2 :]
            payload = copied
        block = decoded(header, payload, *more)
        if when == "after":
            used_again()
        return block

    monkeypatch.setattr(shared_source, "decoded", slowly)
    with shared.read(keys) as reading:
        assert list(reading) == []
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == 0


def test_a_reader_never_gets_mixed_bytes(tiered: TieredStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    stop = threading.Event()

    def read() -> int:
        found = 0
        with RemoteStore(server.address, transports=SHARED) as store:
            while not stop.is_set():
                with store.read(keys) as reading:
                    for index, (block, _) in enumerate(reading):
                        assert same(block, blocks[index])
                        found += 1
        return found

    def churn() -> None:
        # leases end under their readers, and the same memory holds another block, then this one again
        others, theirs = random_prompt(LARGE, 2, seed=7)
        with RemoteStore(server.address, transports=SHARED) as store:
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                put_blocks(store, keys.fingerprint, blocks)
                with tiered.index.changed:
                    for holding in list(tiered.leases._open.values()):
                        tiered.leases.end(holding)
                store.delete(keys)
                put_blocks(store, others.fingerprint, theirs)
                store.delete(others)
        stop.set()

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        churn()
        assert sum(reader.result() for reader in readers) > 0
    figures = tiered.namespace("default").stats()
    check_sums(figures)
    assert total(figures, "corruptions") == 0


def test_a_reader_that_finds_damage_has_it_counted_once(tiered: TieredStore, shared: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 3)
    put_blocks(shared, keys.fingerprint, blocks)
    entry = tiered.index.ready(tiered.namespace("default").namespace, keys.fingerprint)[keys.keys[1]]
    entry.slot.bytes[-1] ^= 1
    with shared.read(keys) as reading:
        assert len(list(reading)) == 1
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "corruptions") == 1 == total(figures, "corruptions", tier="cpu")
    assert shared.lookup(keys).ready == 1


def test_a_lease_that_ended_unseen_is_not_relied_on(tiered: TieredStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(small_spec(), 3)
    with RemoteStore(server.address, transports=("shared", "stream")) as store:
        put_blocks(store, keys.fingerprint, blocks)
        lease = store.lease(keys, ttl=1.0)
        with store.read(keys, lease=lease) as reading:
            blocks_read = iter(reading)
            next(blocks_read)
            time.sleep(1.1)
            assert list(blocks_read) == []
        lease = store.lease(keys, ttl=1.0)
        with store.read(keys, lease=lease) as reading:
            blocks_read = iter(reading)
            next(blocks_read)
            store.renew(lease.id, 5.0)
            time.sleep(1.1)
            # the store knows better than this client's clock
            assert len(list(blocks_read)) == 2
        store.release(store.lease(keys), [Verdict.USED])
