"""Leases protect, run out, and are counted; what is copied behind their back is never wrong."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cachestore.block import Block, Half, Part
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, LeaseExpired, Overloaded, Unavailable
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import CorruptBlock
from cachestore.store import room
from cachestore.store.base import Purpose, Store, Verdict, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_tokens, same, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., TieredStore]


def blocks_of(count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    tokens = random_tokens(count * SPEC.block_tokens, seed)
    return chain(SPEC, tokens), random_blocks(SPEC, tokens, seed)


def read(store: Store, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        return [block for block, _ in reading]


def outcome(store: Store) -> dict[str, int]:
    names = ("hits", "misses", "corrupt", "expired", "open")
    return {name: count for name in names if (count := total(store.stats(), f"read_{name}"))}


def expired(tiered: TieredStore) -> Callable[[], bool]:
    return lambda: not tiered.leases._open


def test_a_lease_that_runs_out_before_its_read_is_over_counts_expired(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    with store.read(keys, lease=store.lease(keys, ttl=0.5)) as reading:
        blocks_read = iter(reading)
        assert same(next(blocks_read).block, blocks[0])
        eventually(expired(tiered))
        assert list(blocks_read) == []
    assert outcome(store) == {"expired": 3} and total(store.stats(), "corruptions") == 0
    assert store.lookup(keys).ready == 3


def test_a_slot_given_to_another_block_is_stale_and_never_wrong(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store(4 * BLOCK)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    put_blocks(store, keys.fingerprint, blocks)
    reading = store.open(keys, lease=store.lease(keys, ttl=0.5))
    sealed = next(iter(reading))
    sealed.check()
    before = sealed.payload.copy()
    eventually(expired(tiered))
    others, other_blocks = blocks_of(4, seed=9)
    assert {str(a.status) for a in put_blocks(store, others.fingerprint, other_blocks)} == {"stored"}
    assert not (sealed.payload == before).all()
    with pytest.raises(CorruptBlock, match="stale"):
        sealed.check()
    reading.reject(sealed, "stale")
    assert list(reading) == []
    reading.close()
    assert outcome(store) == {"expired": 4} and total(store.stats(), "corruptions") == 0
    assert all(map(same, read(store, others), other_blocks)) and len(read(store, others)) == 4


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


def test_leased_blocks_outlive_their_deletion_and_then_give_their_room_back(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    with store.read(keys) as reading:
        assert store.clear() == 3 and store.lookup(keys).ready == 0
        assert put_blocks(store, keys.fingerprint, blocks[:1])[0].status == "stored"
        assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
        assert tiered.memory.usage().used == 4 * BLOCK
    assert tiered.memory.usage().used == BLOCK and outcome(store) == {"hits": 3}


def test_a_read_taken_up_again_is_counted_once(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    for _ in range(3):
        reading = store.open(keys.first(2), lease=lease)
        assert next(iter(reading)).number == 0
        reading.close()
    assert total(store.stats(), "read_blocks") == 2
    for asked in (3, 1):
        store.open(keys.first(asked), lease=lease).close()
        assert total(store.stats(), "read_blocks") == 3
    store.release(lease, [Verdict.USED, Verdict.UNREAD])
    assert outcome(store) == {"hits": 1, "misses": 2}
    with pytest.raises(LeaseExpired):
        store.open(keys, lease=lease)


def test_a_lease_is_for_its_own_chain_and_namespace(open_store: Opener) -> None:
    tiered = open_store()
    store, other = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(2)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    for wrong in (keys.behind(1), Chain(bytes(32), keys.keys), blocks_of(2, seed=5)[0]):
        with pytest.raises(InvalidArgument, match="another chain"):
            store.read(wrong, lease=lease)
    for call in (lambda: other.read(keys, lease=lease), lambda: other.release(lease), lambda: other.renew(lease.id, 5)):
        with pytest.raises(LeaseExpired):
            call()
    store.release(lease)
    assert outcome(store) == {} == outcome(other)


def test_a_renewed_lease_lasts(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    short, renewed = store.lease(keys, ttl=1.0), store.lease(keys, ttl=1.0)
    assert store.renew(renewed.id, 60.0).ttl > 59
    eventually(lambda: len(tiered.leases._open) == 1)
    with pytest.raises(LeaseExpired):
        store.release(short)
    store.release(renewed)
    for ttl in (0.0, -1.0, float("nan"), float("inf"), 601.0):
        with pytest.raises(InvalidArgument):
            store.lease(keys, ttl=ttl)


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


@pytest.mark.parametrize("write", ["through", "eviction"])
def test_a_deleted_block_never_comes_back(open_store: Opener, write: str) -> None:
    """Deletes race with write-through, promotion and demotion; afterwards no tier may have the block."""
    tiered = open_store(6 * BLOCK, {}, write=write)
    store = tiered.namespace("a")
    for seed in range(60):
        keys, blocks = blocks_of(4, seed)
        put_blocks(store, keys.fingerprint, blocks)
        if seed % 3 == 1:
            tiered.settle()
            store.clear("cpu")
            read(store, keys)
        elif seed % 3 == 2:
            put_blocks(store, bytes(32), blocks_of(4, seed + 1000)[1])
        if seed % 2:
            store.delete(keys)
        else:
            store.clear()
        assert tiered.settle()
        assert store.lookup(keys).ready == 0 and read(store, keys) == []
        (redis,) = tiered.cold
        assert redis.present(store.namespace, keys.keys, Deadline.after(5)) == [False] * 4


@pytest.mark.parametrize("patient", [True, False])
def test_a_copy_that_is_on_its_way_when_its_block_is_deleted_is_taken_back(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    tiered = open_store(redis={})
    store, (redis,) = tiered.namespace("a"), tiered.cold
    on_its_way, gate, put_many = threading.Event(), threading.Event(), redis.put_many

    def late(*arguments: Any, **options: Any) -> list[bool]:
        on_its_way.set()
        assert gate.wait(10)
        return put_many(*arguments, **options)

    monkeypatch.setattr(redis, "put_many", late)
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    assert on_its_way.wait(10)
    if patient:
        # it is not over before the copy is, so nobody finds the blocks once it has answered
        threading.Timer(0.1, gate.set).start()
        assert store.delete(keys.first(2)) == 2
        assert redis.present(store.namespace, keys.keys[:2], Deadline.after(5)) == [False, False]
    else:
        with pytest.raises(Unavailable, match="redis"):
            store.delete(keys.first(2), timeout=0.1)
        assert store.lookup(keys).ready == 0
        gate.set()
    assert tiered.settle()
    assert redis.present(store.namespace, keys.keys, Deadline.after(5)) == [False, False, True]
    assert total(store.stats(), "tier_added", tier="redis") == 1


def test_a_block_read_from_redis_and_deleted_before_it_is_promoted_stays_away(open_store: Opener) -> None:
    tiered = open_store(redis={})
    store = tiered.namespace("a")
    keys, blocks = blocks_of(2)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 2
    gate = threading.Event()

    def hold() -> None:
        gate.wait(10)

    assert tiered.mover.submit(hold)
    assert len(read(store, keys)) == 2
    assert store.delete(keys) == 2
    gate.set()
    assert tiered.settle() and store.lookup(keys).ready == 0
    assert total(store.stats(), "promoted") == 0


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


def test_a_namespace_has_so_many_leases_and_no_more(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    tiered.leases.most = 3
    a, b = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(1)
    put_blocks(a, keys.fingerprint, blocks)
    first, second, _ = [a.lease(keys, ttl=ttl) for ttl in (30, 30, 1.0)]
    with pytest.raises(Overloaded, match="open leases"):
        a.lease(keys)
    with pytest.raises(Overloaded), a.read(keys):
        pass
    b.release(b.lease(keys))
    assert total(a.stats(), "leases_open") == 3
    a.release(first)
    first = a.lease(keys)
    # one that is over makes way
    eventually(lambda: total(a.stats(), "leases_open") == 2)
    for lease in (first, second, a.lease(keys)):
        a.release(lease)


def test_a_namespace_has_leases_on_so_many_blocks_and_no_more(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store()
    tiered.leases.most_blocks = 5
    a, b = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(2)
    for store in (a, b):
        put_blocks(store, keys.fingerprint, blocks)
    first, second = a.lease(keys), a.lease(keys, ttl=1.0)
    with pytest.raises(Overloaded, match="open leases on 4 blocks"):
        a.lease(keys)
    last = a.lease(keys.first(1))
    b.release(b.lease(keys))
    a.release(first)
    first = a.lease(keys)
    # one that is over makes way
    eventually(lambda: total(a.stats(), "leases_open") == 2)
    for lease in (first, last, a.lease(keys)):
        a.release(lease)
    with pytest.raises(LeaseExpired):
        a.release(second)


def test_a_lease_keeps_nothing_of_the_request(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    key = bytes(bytearray(keys.keys[0]))
    before = sys.getrefcount(key)
    lease = store.lease(Chain(keys.fingerprint, (key,)))
    assert lease.blocks == 1 and sys.getrefcount(key) == before
    store.release(lease)


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


def test_a_lease_ends_when_it_was_last_said_to(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    shorter, longer = store.lease(keys, ttl=60), store.lease(keys, ttl=1.0)
    assert 50 < store.renew(longer.id, 60).ttl <= 60
    assert store.renew(shorter.id, 0.3).ttl <= 0.3
    eventually(lambda: total(store.stats(), "leases_open") == 1, 2)
    assert store.renew(longer.id, 0.2).ttl <= 0.2
    eventually(expired(tiered), 2)


def test_leases_that_are_over_are_not_remembered(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    kept = store.lease(keys, ttl=600)
    for seconds in range(600, 300, -1):
        store.renew(kept.id, seconds)
        store.release(store.lease(keys, ttl=600))
    assert total(store.stats(), "leases_open") == 1 and len(tiered.leases._ending) < 100
    store.release(kept)
