"""What was deleted stays away, whatever was on its way to another tier."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from tests.store.small_blocks import BLOCK, blocks_of, read

Opener = Callable[..., TieredStore]


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
