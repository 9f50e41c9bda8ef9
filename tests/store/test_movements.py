"""Blocks that move between tiers: when a copy is written below, and when a block comes up."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cachestore.metrics import total
from cachestore.store.base import Store
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, write_blocks
from tests.store.moving import cold, held_up, read, stored, tiers
from tests.store.small_blocks import BLOCK, SPEC

Opener = Callable[..., TieredStore]


def copies(store: Store) -> int:
    return total(store.stats(), "tier_added", tier="redis")


def test_written_through_a_copy_is_there_with_the_put(open_store: Opener) -> None:
    tiered = open_store("1MiB", {}, write="through")
    store = tiered.namespace("a")
    stored(store, 4)
    assert tiered.settle() and copies(store) == 4


def test_written_back_a_copy_is_there_after_a_while(open_store: Opener) -> None:
    tiered = open_store("1MiB", {}, write="back", write_delay=1.5)
    store = tiered.namespace("a")
    stored(store, 4)
    assert tiered.settle() and copies(store) == 0
    until = time.monotonic() + 10
    while copies(store) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    assert copies(store) == 4


def test_written_back_a_block_that_must_leave_is_copied_first(open_store: Opener) -> None:
    tiered = open_store(4 * BLOCK, {}, write="back", write_delay=60)
    store = tiered.namespace("a")
    old, blocks = stored(store, 4)
    stored(store, 4, seed=2)
    assert tiers(store, old) == [(4, "redis")] and total(store.stats(), "dropped") == 0
    assert all(map(same, read(tiered, store, old), blocks))


def test_written_back_closing_copies_what_is_due(open_store: Opener, redis_server: Callable[..., object]) -> None:
    url = redis_server().url  # type: ignore[attr-defined]
    tiered = open_store("1MiB", url, write="back", write_delay=60)
    keys, blocks = stored(tiered.namespace("a"), 4)
    tiered.close()
    again = open_store("1MiB", url)
    assert tiers(again.namespace("a"), keys) == [(4, "redis")]
    assert all(map(same, read(again, again.namespace("a"), keys), blocks))


def test_a_block_that_is_deleted_before_its_copy_is_due_gets_none(open_store: Opener) -> None:
    tiered = open_store("1MiB", {}, write="back", write_delay=1.0)
    store = tiered.namespace("a")
    keys, _ = stored(store, 2)
    assert store.delete(keys) == 2
    time.sleep(1.5)
    assert tiered.settle() and copies(store) == 0


@pytest.mark.parametrize("reads", [1, 2, 3])
def test_a_block_comes_up_with_the_read_that_makes_it_popular(open_store: Opener, reads: int) -> None:
    tiered = open_store("1MiB", {}, promote_after=reads)
    store = tiered.namespace("a")
    keys, blocks = cold(tiered, store, 4)
    for _ in range(reads):
        assert tiers(store, keys) == [(4, "redis")]
        assert all(map(same, read(tiered, store, keys), blocks))
    assert tiers(store, keys) == [(4, "cpu")] and total(store.stats(), "promoted") == 4
    assert total(store.stats(), "read_hits", tier="redis") == 4 * reads


def test_a_copy_that_redis_lost_is_made_again_when_the_block_must_leave(
    open_store: Opener, redis_server: Callable[..., object]
) -> None:
    server = redis_server()
    tiered = open_store(4 * BLOCK, server.url)  # type: ignore[attr-defined]
    store = tiered.namespace("a")
    keys, blocks = stored(store, 4)
    assert tiered.settle()
    with server.client() as client:  # type: ignore[attr-defined]
        client.flushall()
    stored(store, 4, seed=2)
    assert tiers(store, keys) == [(4, "redis")] and total(store.stats(), "dropped") == 0
    assert all(map(same, read(tiered, store, keys), blocks))


def test_a_block_that_comes_up_keeps_its_time_to_live(open_store: Opener) -> None:
    tiered = open_store("1MiB", {})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    with store.put(keys.fingerprint, plans_of(blocks), ttl=1.5) as put:
        write_blocks(put, blocks)
        put.commit()
    assert tiered.settle() and store.clear("cpu") == 2
    assert all(map(same, read(tiered, store, keys), blocks)) and tiers(store, keys) == [(2, "cpu")]
    until = time.monotonic() + 10
    while total(store.stats(), "tier_removed", tier="cpu", why="ttl") < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert store.lookup(keys).ready == 0 and total(store.stats(), "tier_removed", tier="cpu", why="ttl") == 2


@pytest.mark.parametrize("write", ["through", "eviction"])
def test_what_must_leave_the_disk_goes_to_redis(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, write: str
) -> None:
    tiers_ = [
        {"name": "cpu", "capacity": 16 * BLOCK},
        {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"},
        {"name": "redis", "capacity": "16MiB"},
    ]
    tiered = open_tiers(tiers_, {"write": write})
    store = tiered.namespace("a")
    prompts = [stored(store, 16, seed) for seed in range(2, 26) if tiered.settle()]
    assert tiered.settle()
    figures = store.stats()
    left = total(figures, "tier_removed", tier="disk")
    assert left == total(figures, "tier_removed", tier="disk", why="demoted" if write == "eviction" else "evicted") > 0
    for keys, blocks in prompts:
        assert store.lookup(keys).ready == 16
        assert all(map(same, read(tiered, store, keys), blocks))


def test_a_popular_block_goes_into_a_hot_tier_once_however_many_read_it_meanwhile(
    open_tiers: Callable[..., TieredStore],
) -> None:
    gpu = {"name": "gpu", "device": "cpu", "capacity": "8MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, gpu], {"hot_after": 2})
    store = tiered.namespace("a")
    keys, _ = stored(store, 4)
    goes_on = held_up(tiered)
    for _ in range(10):
        with store.read(keys) as reading:
            assert len(list(reading)) == 4
    goes_on.set()
    assert tiered.settle() and total(store.stats(), "promoted", tier="gpu") == 4
