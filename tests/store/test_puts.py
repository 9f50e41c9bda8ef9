"""Two-phase puts: what is visible when, deadlines, aborts from other threads, and what a block is answered."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.errors import Aborted, CacheStoreError, DeadlineExceeded, DurabilityUnmet, InvalidArgument, TooLarge
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.store.base import Durability, PutStatus, put_blocks
from cachestore.store.reserving import AT_ONCE
from cachestore.store.tiered import TieredStore
from cachestore.testing import (
    plans_of,
    same,
    write_blocks,
)
from tests.store.small_blocks import blocks_of, read

Opener = Callable[..., TieredStore]


def test_nothing_is_visible_before_it_is_published(open_store: Opener) -> None:
    store = open_store(redis={}).namespace("a")
    keys, blocks = blocks_of(3)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        write_blocks(put, blocks)
        assert store.lookup(keys) == (0, (), 3) and read(store, keys) == []
        put.commit([1])
        assert store.lookup(keys) == (0, (), 1)
        put.commit([0, 0, 1])
        assert store.lookup(keys).ready == 2 and store.lookup(keys).writing == 1
        assert all(map(same, read(store, keys), blocks))
    assert [answer.status for answer in put.answers] == ["stored", "stored", "failed"]
    with pytest.raises(Aborted):
        put.commit()


def test_a_deadline_ends_a_put(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(2)
    put = store.put(keys.fingerprint, plans_of(blocks), timeout=0.3)
    eventually(lambda: total(store.stats(), "puts_open") == 0)
    for call in (lambda: put.write(0, 0, blocks[0].data[0]), put.commit):
        with pytest.raises(DeadlineExceeded):
            call()
    assert store.lookup(keys) == (0, (), 0) and tiered.memory.usage().used == 0
    assert total(store.stats(), "put_aborted") == 2
    assert {answer.status for answer in put_blocks(store, keys.fingerprint, blocks)} == {PutStatus.STORED}


def test_a_commit_behind_the_deadline_publishes_nothing(open_store: Opener, eventually: Callable[..., None]) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    put = store.put(keys.fingerprint, plans_of(blocks), timeout=0.5)
    write_blocks(put, blocks)
    eventually(lambda: not put.deadline.remaining())
    with pytest.raises(DeadlineExceeded):
        put.commit()
    assert store.lookup(keys).ready == 0


def test_an_abort_by_id(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(3)
    put = store.put(keys.fingerprint, plans_of(blocks))
    write_blocks(put, blocks)
    put.commit([0])
    assert store.abort(b"no such put") == 0 and store.abort(put.id) == 2 and store.abort(put.id) == 0
    with pytest.raises(Aborted):
        put.write(1, 0, blocks[1].data[0])
    assert store.lookup(keys) == (1, store.lookup(keys).runs, 0)


def test_aborts_from_another_thread_while_writing_and_committing(open_store: Opener) -> None:
    """The slots of an aborted put are given to the next at once, so a late write would hit another's block."""
    tiered = open_store(256 << 10)
    store, other = tiered.namespace("a"), tiered.namespace("a")
    wrong: list[Block] = []

    def abort(put: Any, start: threading.Barrier) -> None:
        start.wait()
        put.abort()
        keys, blocks = blocks_of(4, seed=77)
        put_blocks(other, keys.fingerprint, blocks)
        wrong.extend(found for found, wanted in zip(read(other, keys), blocks, strict=False) if not same(found, wanted))
        other.delete(keys)

    with ThreadPoolExecutor(1) as thread:
        for seed in range(60):
            keys, blocks = blocks_of(4, seed)
            start = threading.Barrier(2)
            with store.put(keys.fingerprint, plans_of(blocks)) as put:
                if seed % 2:
                    write_blocks(put, blocks)
                aborting = thread.submit(abort, put, start)
                start.wait()
                try:
                    if not seed % 2:
                        write_blocks(put, blocks)
                    put.commit()
                except Aborted:
                    pass
            aborting.result(20)
            assert all(map(same, read(store, keys), blocks))
            store.delete(keys)
    assert wrong == [] and total(store.stats(), "corruptions") == 0
    assert tiered.memory.usage().used == 0


def test_two_puts_of_one_key_do_the_work_once(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    first = store.put(keys.fingerprint, plans_of(blocks))
    second = store.put(keys.fingerprint, plans_of(blocks))
    assert (first.answers[0].status, second.answers[0].status) == ("wanted", "in_progress")
    second.write(0, 0, blocks[0].data[0])
    first.abort()
    assert second.commit() is None and store.lookup(keys).ready == 0
    second.abort()
    assert put_blocks(store, keys.fingerprint, blocks)[0].status is PutStatus.STORED


def test_the_first_value_of_a_key_is_kept(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    other = bytes(32)
    assert put_blocks(store, other, blocks)[0].status is PutStatus.KEPT_FIRST
    assert total(store.stats(), "put_kept_first") == 1
    assert store.lookup(Chain(other, keys.keys)).ready == 0 and same(read(store, keys)[0], blocks[0])


def test_durable_is_refused_where_nothing_is(open_store: Opener) -> None:
    store = open_store(redis={}).namespace("a")
    keys, blocks = blocks_of(1)
    with pytest.raises(DurabilityUnmet):
        store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE)
    assert total(store.stats(), "put_blocks") == 1 == total(store.stats(), "put_refused", reason="durability_unmet")


@pytest.mark.parametrize("ttl", [0.0, -1.0, 1e-9, float("nan"), float("inf"), 1e12])
def test_times_to_live_that_cannot_be_are_refused(open_store: Opener, ttl: float) -> None:
    store = open_store(redis={}).namespace("a")
    keys, blocks = blocks_of(1)
    with pytest.raises(InvalidArgument, match="ttl"):
        store.put(keys.fingerprint, plans_of(blocks), ttl=ttl)


@pytest.mark.parametrize("together", [True, False])
def test_a_put_that_fails_while_it_reserves_leaves_nothing(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3 * AT_ONCE if together else 3)
    name = "take_free" if together else "take"
    take, count = getattr(tiered, name), iter([1, 1])

    def failing(*arguments: Any) -> Any:
        if next(count, None) is None:
            raise MemoryError
        return take(*arguments)

    if not together:
        monkeypatch.setattr(tiered, "take_free", lambda *_: [])
    monkeypatch.setattr(tiered, name, failing)
    with pytest.raises(MemoryError):
        store.put(keys.fingerprint, plans_of(blocks))
    monkeypatch.undo()
    assert store.lookup(keys) == (0, (), 0)
    assert {answer.status for answer in put_blocks(store, keys.fingerprint, blocks)} == {PutStatus.STORED}


def test_closing_a_namespace_aborts_its_puts(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(2)
    put = store.put(keys.fingerprint, plans_of(blocks))
    store.close()
    store.close()
    with pytest.raises(CacheStoreError):
        put.commit()


def test_a_present_block_needs_no_room(open_store: Opener) -> None:
    tiered = open_store(redis={}, memory=64 << 10)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 4
    answers = put_blocks(store, keys.fingerprint, blocks)
    assert [(answer.status, answer.tier) for answer in answers] == [(PutStatus.ALREADY_EXISTS, "redis")] * 4
    assert tiered.memory.usage().used == 0


def test_what_is_being_written_can_be_found_by_its_name(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    with store.put(keys.fingerprint, plans_of(blocks)):
        assert tiered.index.writing(store.namespace, keys.keys[0])
        assert store.delete(keys) == 0 and store.clear() == 0
    assert tiered.index.get(Name(store.namespace, keys.keys[0])) is None


def test_no_room_ever_is_told_at_once(open_store: Opener) -> None:
    store = open_store(2048).namespace("a")
    keys, blocks = blocks_of(1)
    with pytest.raises(TooLarge, match=rf"{plans_of(blocks)[0].raw_bytes} bytes") as refused:
        store.put(keys.fingerprint, plans_of(blocks))
    # what is too large and how large it may be, and nothing of how the store is set up
    assert "tiers." not in str(refused.value) and "capacity" not in str(refused.value)
