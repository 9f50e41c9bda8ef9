"""Memory is bounded: what leaves it, in which order, where to, and that the cap holds whoever writes."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachestore.block import Block
from cachestore.errors import TooLarge
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import BlockPlan, PutStatus, Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, same, small_spec, write_blocks
from tests.store.small_blocks import BLOCK, blocks_of, read

Opener = Callable[..., TieredStore]


def ready(store: Store, keys: Chain) -> list[bool]:
    return [store.lookup(Chain(keys.fingerprint, (key,))).ready == 1 for key in keys.keys]


def put(store: Store, keys: Chain, blocks: Sequence[Block]) -> list[str]:
    return [str(answer.status) for answer in put_blocks(store, keys.fingerprint, blocks)]


def test_one_block_takes_what_these_tests_reckon_with(open_store: Opener) -> None:
    tiered = open_store()
    put(tiered.namespace("a"), *blocks_of(1))
    assert tiered.memory.usage().used == BLOCK


def test_the_prompt_not_read_for_longest_leaves_first_from_its_end(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK)
    store = tiered.namespace("a")
    (old, old_blocks), (new, new_blocks), (newest, newest_blocks) = (blocks_of(count, count) for count in (4, 3, 2))
    assert put(store, old, old_blocks) == ["stored"] * 4 and put(store, new, new_blocks) == ["stored"] * 3
    read(store, old)
    assert store.lookup(new).ready == 3  # looking renews nothing
    assert put(store, newest, newest_blocks) == ["stored"] * 2
    assert ready(store, old) == [True] * 4 and ready(store, new) == [True, True, False]
    assert put(store, *blocks_of(1, 9)) == ["stored"] and ready(store, new) == [True, False, False]
    figures = store.stats()
    assert total(figures, "evicted", tier="cpu") == total(figures, "dropped") == 2
    assert total(figures, "tier_removed", tier="cpu", why="evicted") == 2


@pytest.mark.parametrize("write", ["through", "eviction"])
def test_what_leaves_memory_is_in_redis_and_comes_back_when_it_is_read(open_store: Opener, write: str) -> None:
    tiered = open_store(8 * BLOCK, {}, write=write)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(20)
    for index in range(0, 20, 4):
        assert put(store, keys, blocks[index : index + 4]) == ["stored"] * 4
        assert tiered.settle()
    figures = store.stats()
    assert total(figures, "evicted") == 12 and total(figures, "dropped") == 0
    assert total(figures, "demoted") == (12 if write == "eviction" else 0)
    assert [(run.blocks, run.tier) for run in store.lookup(keys).runs] == [(12, "redis"), (8, "cpu")]
    assert all(map(same, read(store, keys), blocks)) and tiered.settle()
    figures = store.stats()
    assert total(figures, "read_hits", tier="redis") == 12 and total(figures, "read_hits", tier="cpu") == 8
    # while all of memory was leased nothing could come up
    assert all(map(same, read(store, keys.first(12)), blocks)) and tiered.settle()
    assert total(store.stats(), "promoted") > 0
    assert len(read(store, keys)) == 20 and tiered.settle()
    assert put(store, keys, blocks) == ["already_exists"] * 20


def test_a_block_is_refused_when_nothing_may_leave(open_store: Opener) -> None:
    tiered = open_store(4 * BLOCK)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(6)
    put(store, keys, blocks[:4])
    lease = store.lease(keys)
    assert lease.blocks == 4
    assert put(store, keys, blocks[4:]) == ["not_kept"] * 2
    assert put(tiered.namespace("b"), keys, blocks[:1]) == ["not_kept"]
    store.release(lease)
    assert put(store, keys, blocks[4:]) == ["stored"] * 2
    # what is being written may not leave either
    with store.put(keys.fingerprint, plans_of(blocks[:4])) as open_put:
        statuses = [answer.status for answer in open_put.answers]
        assert statuses.count(PutStatus.WANTED) + statuses.count(PutStatus.ALREADY_EXISTS) == 4
        assert put(store, *blocks_of(4, seed=9)) == ["not_kept"] * 4


def test_a_block_does_not_leave_for_those_behind_it(open_store: Opener) -> None:
    tiered = open_store(4 * BLOCK)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(6)
    put(store, keys.first(3), blocks[:3])
    assert put(store, keys, blocks) == ["already_exists"] * 3 + ["stored"] + ["not_kept"] * 2
    with store.put(keys.fingerprint, plans_of(blocks[4:5]), after=keys.keys[3]) as behind:
        assert [answer.status for answer in behind.answers] == ["not_kept"]
    assert store.lookup(keys).ready == 4


def test_who_holds_most_gives_first(open_store: Opener) -> None:
    tiered = open_store(12 * BLOCK, cpu={"slab": BLOCK})
    large, small = tiered.namespace("large"), tiered.namespace("small")
    put(small, *blocks_of(2))
    keys, blocks = blocks_of(10)
    put(large, keys, blocks)
    # the small one was used before the large one, and is spared
    assert put(tiered.namespace("third"), *blocks_of(4)) == ["stored"] * 4
    assert small.lookup(blocks_of(2)[0]).ready == 2 and large.lookup(keys).ready == 6


def test_a_namespace_stays_within_its_quota_and_evicts_its_own(open_store: Opener) -> None:
    tiered = open_store(32 * BLOCK, cpu={"slab": BLOCK}, quota=4 * BLOCK, quotas={"rich": 8 * BLOCK})
    for name, quota in (("poor", 4), ("rich", 8)):
        store = tiered.namespace(name)
        for seed in range(4):
            put(store, *blocks_of(3, seed))
        figures = store.stats()
        assert quota - 3 < total(figures, "tier_blocks", tier="cpu") <= quota
        assert total(figures, "tier_bytes", tier="cpu") <= quota * BLOCK
    poor = tiered.namespace("poor")
    assert put(poor, *blocks_of(8, seed=9)).count("stored") == 4
    assert total(tiered.namespace("rich").stats(), "evicted") == 4


def test_a_block_larger_than_memory_is_too_large_and_leaves_nothing(open_store: Opener) -> None:
    tiered = open_store(64 << 10)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put(store, keys, blocks)
    big = small_spec(block_tokens=256)
    plans = [BlockPlan(bytes(32), 256, big.planes())]
    with pytest.raises(TooLarge, match="more than this store ever takes"):
        store.put(keys.fingerprint, [*plans_of(blocks_of(1, 5)[1]), *plans])
    assert store.lookup(keys).ready == 1 and total(store.stats(), "put_blocks") == 3
    assert total(store.stats(), "put_refused", reason="too_large") == 2


def test_a_block_as_large_as_memory_takes_its_place(open_store: Opener) -> None:
    tiered = open_store(BLOCK)
    store, other = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(2)
    assert put(store, keys, blocks[:1]) == put(store, keys, blocks[1:]) == ["stored"]
    assert ready(store, keys) == [False, True]
    assert put(other, keys, blocks[:1]) == ["stored"] and ready(store, keys) == [False, False]
    assert read(store, keys) == [] and same(read(other, keys)[0], blocks[0])


def test_a_namespace_gets_room_from_another(open_store: Opener) -> None:
    tiered = open_store(16 * BLOCK, cpu={"slab": 4 * BLOCK})
    keys, blocks = blocks_of(16)
    for name in ("a", "b", "c"):
        assert put(tiered.namespace(name), keys, blocks) == ["stored"] * 16
        assert all(map(same, read(tiered.namespace(name), keys), blocks))
    assert ready(tiered.namespace("a"), keys) == [False] * 16
    with pytest.raises(AssertionError):
        assert tiered.memory.slabs(tiered.namespace("a").namespace)


@pytest.mark.parametrize("with_redis", [False, True])
def test_the_cap_holds_while_eight_threads_write_and_read(open_store: Opener, with_redis: bool) -> None:
    tiered = open_store(24 * BLOCK, {} if with_redis else None, cpu={"slab": 4 * BLOCK}, write="eviction")
    over, highest = threading.Event(), []

    def watch() -> None:
        while not over.is_set():
            with tiered.index.changed:
                highest.append(tiered.memory.taken)
                assert tiered.memory.usage().used <= tiered.memory.taken <= tiered.memory.capacity
            tiered.check()
            time.sleep(0)

    def work(worker: int) -> int:
        store = tiered.namespace("ab"[worker % 2])
        wrong = 0
        for turn in range(12):
            keys, blocks = blocks_of(4, seed=(worker + turn) % 10)
            put(store, keys, blocks)
            wrong += sum(not same(found, wanted) for found, wanted in zip(read(store, keys), blocks, strict=False))
            if turn % 5 == 4:
                store.delete(keys)
        return wrong

    with ThreadPoolExecutor(9) as threads:
        watching = threads.submit(watch)
        workers = [threads.submit(work, worker) for worker in range(8)]
        try:
            assert sum(job.result(60) for job in workers) == 0
        finally:
            over.set()
        watching.result(60)
    assert max(highest) == tiered.memory.capacity
    for name in "ab":
        assert total(tiered.namespace(name).stats(), "corruptions") == 0


def test_a_shrunk_block_gives_its_room_back(open_store: Opener) -> None:
    tiered = open_store(codec="lz4")
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    empty = [Block(b.key, b.token_count, b.planes, [data * 0 for data in b.data]) for b in blocks]
    with store.put(keys.fingerprint, plans_of(empty)) as open_put:
        assert tiered.memory.usage().used == BLOCK
        write_blocks(open_put, empty)
        open_put.commit()
    assert tiered.memory.usage().used < BLOCK and same(read(store, keys)[0], empty[0])
