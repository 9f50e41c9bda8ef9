"""What is read is what was put, whatever happens around it, and belongs to its reader."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cachestore.block import Block, Half, Part
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.store import room
from cachestore.store.base import Purpose, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_tokens, same, write_blocks
from tests.store.small_blocks import BLOCK, SPEC, blocks_of, outcome, read

Opener = Callable[..., TieredStore]


def test_reading_goes_on_while_everything_around_is_evicted(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, {}, write="eviction")
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    put_blocks(store, keys.fingerprint, blocks)
    with store.read(keys) as reading:
        for index, (block, _) in enumerate(reading):
            others, other_blocks = blocks_of(6, seed=10 + index)
            put_blocks(store, others.fingerprint, other_blocks)
            assert same(block, blocks[index])
    assert outcome(store) == {"hits": 4}


def test_namespaces_never_see_each_other(open_store: Opener) -> None:
    tiered = open_store(redis={})
    one, other = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(3)
    put_blocks(one, keys.fingerprint, blocks)
    assert tiered.settle()
    for _ in range(2):
        assert other.lookup(keys).ready == 0 and read(other, keys) == [] and other.delete(keys) == 0
        assert other.clear() == 0 and one.lookup(keys).ready == 3
        one.clear("cpu")
    different = random_blocks(SPEC, random_tokens(12, 1), seed=50)
    put_blocks(other, keys.fingerprint, different)
    assert all(map(same, read(one, keys), blocks)) and all(map(same, read(other, keys), different))
    assert total(other.stats(), "read_hits") == 3 == total(other.stats(), "put_stored")


def test_readers_and_writers_of_the_same_blocks(open_store: Opener) -> None:
    tiered = open_store(10 * BLOCK, {})
    names = ["a", "b"]

    def work(worker: int) -> int:
        store = tiered.namespace(names[worker % 2])
        count = 0
        for turn in range(15):
            keys, blocks = blocks_of(4, seed=(worker // 2 + turn) % 4)
            put_blocks(store, keys.fingerprint, blocks)
            with store.read(keys, wait=0.01, purpose=Purpose.HANDOFF) as reading:
                for (block, _), wanted in zip(reading, blocks, strict=False):
                    assert same(block, wanted)
                    count += 1
            if turn % 4 == 3:
                store.delete(keys)
            if turn % 7 == 6:
                store.clear("redis")
        return count

    with ThreadPoolExecutor(8) as threads:
        jobs: list[Any] = [threads.submit(work, worker) for worker in range(8)]
        assert sum(job.result(60) for job in jobs) > 100
    assert all(total(tiered.namespace(name).stats(), "corruptions") == 0 for name in names)


def test_a_reader_may_write_into_what_it_read_while_that_is_promoted(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = open_store(redis={})
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 3
    loaded: list[Block] = []
    reading_is_over, take = threading.Event(), room.take

    def late(*arguments: Any) -> Any:
        assert reading_is_over.wait(10)
        for block in loaded:
            for data in block.data:
                data[:] = 0
        return take(*arguments)

    monkeypatch.setattr(room, "take", late)
    loaded += read(store, keys)
    assert all(map(same, loaded, blocks))
    reading_is_over.set()
    assert tiered.settle()
    assert all(map(same, read(store, keys), blocks))
    assert total(store.stats(), "corruptions") == 0


def test_what_a_cold_tier_fetched_is_handed_out_itself(open_store: Opener) -> None:
    tiered = open_store(redis={})
    store, (redis,) = tiered.namespace("a"), tiered.cold
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 1
    one_plane = Part(slots=range(1), halves=frozenset({Half.K}), groups=range(1))
    with store.read(keys) as reading:
        ((block, tier),) = reading
    assert tier == redis.name and same(block, blocks[0])
    fetched = [data.base for data in block.data]
    # the header is in front of it
    assert all(base is fetched[0] and base.nbytes > sum(data.nbytes for data in block.data) for base in fetched)
    assert all(data.flags.writeable for data in block.data)
    assert tiered.settle() and store.clear("cpu") == 1
    with store.read(keys, part=one_plane) as reading:
        ((block, _),) = reading
    base = block.data[0].base
    assert same(block, blocks[0], one_plane)
    assert base is None or base.nbytes == block.data[0].nbytes, "one plane keeps a whole block's memory"


def test_a_read_ahead_counts_no_corruption_of_a_block_that_nobody_reads(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    put_blocks(store, keys.fingerprint, blocks)
    entry = tiered.index.get(Name(store.namespace, keys.keys[2]))
    assert entry is not None
    entry.slot.bytes[20] ^= 1
    with store.read(keys) as reading:
        assert same(next(iter(reading)).block, blocks[0])
    assert total(store.stats(), "corruptions") == 0 and outcome(store) == {"hits": 1, "misses": 3}
    assert all(map(same, read(store, keys), blocks[:2]))
    assert total(store.stats(), "corruptions") == 1


def test_a_read_that_waits_looks_at_the_block_it_waits_for(
    open_store: Opener, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = open_store(200 * BLOCK)
    store, other = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(100)
    put_blocks(store, keys.fingerprint, blocks[:98])
    looks, writing = [], tiered.index.writing

    def look(namespace: bytes, key: bytes) -> bool:
        looks.append(key)
        return writing(namespace, key)

    monkeypatch.setattr(tiered.index, "writing", look)

    def more(before: int) -> bool:
        return len(looks) > before

    def wait() -> int:
        with store.read(keys, wait=20.0) as reading:
            return sum(1 for _ in reading)

    with store.put(keys.fingerprint, plans_of(blocks[98:])) as put, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(wait)
        eventually(lambda: len(looks) >= 99)
        write_blocks(put, blocks[98:])
        for seed in range(5):
            others, other_blocks = blocks_of(1, seed=50 + seed)
            before = len(looks)
            put_blocks(other, others.fingerprint, other_blocks)
            eventually(partial(more, before))
        put.commit([1])
        assert len(looks) < 200 and not waiting.done()
        put.commit([0])
        assert waiting.result(10) == 100
