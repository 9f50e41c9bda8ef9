"""Two-phase puts: kept order, deadlines, aborts from other threads, and answers that say what became of a block."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cachestore.block import Block, Half, PlaneId
from cachestore.codecs.lossy import codec_for
from cachestore.codecs.planes import encode_plane
from cachestore.codecs.raw import Raw
from cachestore.errors import Aborted, CacheStoreError, DeadlineExceeded, DurabilityUnmet, InvalidArgument, TooLarge
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import ALIGN, PARENT_BYTES, Header
from cachestore.store.base import Durability, PutStatus, Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import (
    plans_of,
    random_blocks,
    random_planes,
    random_prompt,
    random_tokens,
    same,
    small_spec,
    write_blocks,
)

SPEC = small_spec()
Opener = Callable[..., TieredStore]


def blocks_of(count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    tokens = random_tokens(count * SPEC.block_tokens, seed)
    return chain(SPEC, tokens), random_blocks(SPEC, tokens, seed)


def read(store: Store, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        return [block for block, _ in reading]


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


def test_planes_may_come_in_any_order_and_their_memory_be_used_again(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(2)
    order = np.random.default_rng(0).permutation(len(blocks[0].planes))
    buffer = np.empty(4096, dtype=np.uint8)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        for plane in order:
            for index, block in enumerate(blocks):
                view = buffer[: block.data[plane].nbytes]
                view[:] = block.data[plane]
                put.write(index, int(plane), view)
        buffer[:] = 0
        put.commit()
    assert all(map(same, read(store, keys), blocks))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data.view(np.float32),
        lambda data: data.reshape(2, -1),
        lambda data: np.repeat(data, 2)[::2],
        lambda data: np.concatenate([data, data[:1]]),
        lambda data: data.view(np.bool_),
        lambda data: data[:0],
    ],
)
def test_bytes_that_are_not_the_plane_are_refused_and_the_put_goes_on(open_store: Opener, spoil: Any) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        with pytest.raises(InvalidArgument, match="plane 0 of block 0"):
            put.write(0, 0, spoil(blocks[0].data[0]))
        write_blocks(put, blocks)
        with pytest.raises(InvalidArgument):
            put.commit([1])
        with pytest.raises(InvalidArgument):
            put.commit([-1])
        put.commit()
    assert same(read(store, keys)[0], blocks[0])


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


def test_a_checksum_that_does_not_hold_fails_the_block(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(2)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        for index, block in enumerate(blocks):
            for plane, data in enumerate(block.data):
                encoded = encode_plane(Raw(), data, block.planes[plane])
                if index == plane == 1:
                    encoded = encoded._replace(stored_checksum=encoded.stored_checksum ^ 1)
                put.write_encoded(index, plane, encoded)
        put.commit()
    assert [answer.status for answer in put.answers] == ["stored", "failed"]
    assert store.lookup(keys) == (1, store.lookup(keys).runs, 0)


def test_an_encoding_longer_than_its_plane_is_refused(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    with store.put(keys.fingerprint, plans_of(blocks)) as put:
        encoded = encode_plane(Raw(), blocks[0].data[0], blocks[0].planes[0])
        for wrong in (
            encoded._replace(stored=np.zeros(encoded.raw_bytes + 1, dtype=np.uint8)),
            encoded._replace(raw_bytes=encoded.raw_bytes - 1),
        ):
            with pytest.raises(InvalidArgument):
                put.write_encoded(0, 0, wrong)


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


def test_a_put_that_fails_while_it_reserves_leaves_nothing(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    take, count = tiered.take, iter([1, 1])

    def failing(*arguments: Any) -> Any:
        if next(count, None) is None:
            raise MemoryError
        return take(*arguments)

    monkeypatch.setattr(tiered, "take", failing)
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


def sealed(tiered: TieredStore, store: Any, key: bytes) -> Header:
    entry = tiered.index.get(Name(store.namespace, key))
    assert entry is not None
    return Header.parse(entry.slot.bytes)


def test_the_header_says_what_came_before_and_how_long_it_lasts(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    before = time.time()
    for start, after, ttl in ((0, None, None), (2, keys.keys[1], 60.0)):
        with store.put(keys.fingerprint, plans_of(blocks[start : start + 2]), after=after, ttl=ttl) as put:
            write_blocks(put, blocks[start : start + 2])
            put.commit()
    headers = [sealed(tiered, store, key) for key in keys.keys]
    parents = [bytes(PARENT_BYTES), *(key[:PARENT_BYTES] for key in keys.keys[:3])]
    assert [header.parent for header in headers] == parents
    assert [header.expires for header in headers[:2]] == [0, 0] and not any(header.flags for header in headers)
    for header in headers[2:]:
        assert before + 60.0 <= header.expires / 1000 + 1e-3 <= time.time() + 60.0 + 1e-2
    # and so the block in front is no leaf, and does not leave before those behind it
    entries = [tiered.index.get(Name(store.namespace, key)) for key in keys.keys]
    assert [entry and entry.parent for entry in entries] == [None, *keys.keys[:3]]


@pytest.mark.parametrize("name", ["raw", "lz4"])
def test_runs_and_planes_of_any_size_make_the_same_block(open_store: Opener, name: str) -> None:
    """Planes that are no multiple of their alignment, written one by one, in runs, and in one piece."""
    tiered = open_store(codec=name)
    store = tiered.namespace("a")
    planes = tuple(PlaneId(slot, Half.K, 0, 1, size) for slot, size in enumerate((64, 1, 63, 65, 128, 7, 300_000, 64)))
    data = random_planes(planes, 5)
    flat = np.concatenate(data)
    ways = [[*range(8)], [0, 3, 4], [0], [7, 2, 0], [6, 0]]
    blocks = [Block(bytes([number]) * 32, 3, planes, data) for number in range(len(ways))]
    starts = np.cumsum([0, *(plane.raw_bytes for plane in planes)])
    with store.put(bytes(32), plans_of(blocks)) as put:
        for number, firsts in enumerate(ways):
            ends = [min([other for other in firsts if other > first], default=8) for first in firsts]
            for first, end in zip(firsts, ends, strict=True):
                put.write(number, first, flat[starts[first] : starts[end]])
        put.commit()
    keys = Chain(bytes(32), tuple(block.key for block in blocks))
    assert all(map(same, read(store, keys), blocks)) and len(read(store, keys)) == len(ways)
    for key in keys.keys:
        header = sealed(tiered, store, key)
        assert not any(row.offset % ALIGN for row in header.stored(range(8)))


def test_a_lossy_put_hands_out_what_decoding_gives(open_store: Opener) -> None:
    store = open_store().namespace("a")
    spec = replace(small_spec(), recipe="quantisation=int8,group=32")
    keys, blocks = random_prompt(spec, 2)
    codec = codec_for(spec)
    assert codec is not None and codec.lossy
    with store.put(keys.fingerprint, plans_of(blocks), codec=codec) as put:
        write_blocks(put, blocks)
        put.commit()
    loaded = read(store, keys)
    assert len(loaded) == 2 and total(store.stats(), "corruptions") == 0
    assert not any(map(same, loaded, blocks))
    for block, wanted in zip(loaded, blocks, strict=True):
        for data, raw in zip(block.data, wanted.data, strict=True):
            assert np.allclose(data.view(np.float32), raw.view(np.float32), atol=0.05)
