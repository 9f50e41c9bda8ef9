"""A put may say how long its blocks live; no copy lives longer."""

import gc
import weakref
from collections.abc import Callable
from itertools import count
from pathlib import Path

from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.store.base import Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_blocks, random_prompt, random_tokens, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560


def put(store: Store, ttl: float | None, blocks_of: int = 2) -> Chain:
    tokens = random_tokens(blocks_of * SPEC.block_tokens, seed=1)
    keys, blocks = chain(SPEC, tokens), random_blocks(SPEC, tokens, 1)
    with store.put(keys.fingerprint, plans_of(blocks), ttl=ttl) as open_put:
        write_blocks(open_put, blocks)
        open_put.commit()
    return keys


def test_a_block_leaves_memory_and_redis_when_its_time_is_over(
    open_store: Callable[..., TieredStore], eventually: Callable[..., None]
) -> None:
    tiered = open_store(redis={})
    store = tiered.namespace("a")
    keys = put(store, 1.0)
    assert store.lookup(keys).ready == 2
    eventually(lambda: store.lookup(keys).ready == 0)
    assert total(store.stats(), "tier_removed", tier="cpu", why="ttl") == 2


def test_a_leased_block_goes_with_its_lease(
    open_store: Callable[..., TieredStore], eventually: Callable[..., None]
) -> None:
    store = open_store().namespace("a")
    keys = put(store, 1.0)
    lease = store.lease(keys)
    eventually(lambda: store.lookup(keys).ready == 0)
    with store.read(keys, lease=lease) as reading:
        assert len(list(reading)) == 2


def test_without_a_time_it_stays(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    keys = put(tiered.namespace("a"), None)
    tiered.expire()
    assert tiered.namespace("a").lookup(keys).ready == 2


def test_a_block_that_left_early_holds_no_memory(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store("1MiB", cpu={"slab": "1MiB"})
    store, other = tiered.namespace("a"), tiered.namespace("b")
    put(store, 1000.0)
    slab = weakref.ref(tiered.memory.slabs(store.namespace)[0])
    store.clear()
    put(other, None)
    gc.collect()
    assert slab() is None


def test_a_later_block_of_the_same_name_keeps_its_own_time(
    open_store: Callable[..., TieredStore], eventually: Callable[..., None]
) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys = put(store, 0.2)
    store.delete(keys)
    put(store, None)
    eventually(lambda: not tiered._ending)
    assert store.lookup(keys).ready == 2


def test_a_block_that_the_disk_hands_to_redis_lives_no_longer_there(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"}
    tiers = [{"name": "cpu", "capacity": 4 * BLOCK}, disk, {"name": "redis"}]
    tiered = open_tiers(tiers, {"write": "eviction", "promote_after": 100, "prefetch": False})
    store = tiered.namespace("a")
    keys = put(store, 4.0)
    seeds = count(2)
    while store.lookup(keys).runs[0].tier != "redis":
        others, blocks = random_prompt(SPEC, 4, next(seeds))
        put_blocks(store, others.fingerprint, blocks)
        assert tiered.settle()
    figures = store.stats()
    handed = total(figures, "tier_removed", tier="disk", why="demoted")
    assert total(figures, "tier_added", tier="redis") == handed > 0
    eventually(lambda: store.lookup(keys).ready == 0)


def test_ends_of_blocks_that_are_gone_are_forgotten(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    for _ in range(120):
        store.delete(put(store, 1000.0))
    assert len(tiered._ending) < 100
