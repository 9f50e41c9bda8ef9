"""A namespace's quota of memory, and of what it keeps for good."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import Block, Half, PlaneId
from cachestore.errors import DurabilityUnmet, Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import BlockPlan, Durability, PutAnswer, Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560


def keep(store: Store, keys: Chain, blocks: list[Block], ttl: float | None = None) -> list[PutAnswer]:
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE, ttl=ttl) as put:
        write_blocks(put, blocks)
        put.commit()
        return list(put.answers)


def key_file(folder: Path) -> str:
    path = folder / "sealing.keys"
    path.touch(mode=0o600)
    path.write_text(f"1 {'ab' * 32}\n")
    return str(path)


def in_redis(store: Store) -> int:
    return total(store.stats(), "tier_durable_bytes", tier="redis")


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def on_redis(request: pytest.FixtureRequest, tmp_path: Path, server: Any) -> Iterator[TieredStore]:
    """A store that keeps six blocks of a namespace for good, in Redis."""
    redis = {"name": "redis", "url": server.url, "durable": "aof", "check_after": 0.001}
    redis |= {"timeout": 2.0, "connect_timeout": 2.0}
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}, redis]}
    tables["store"] = {"durable_quota": 6 * BLOCK}
    if request.param:
        tables["sealing"] = {"key_file": key_file(tmp_path)}
    with compose(tables) as tiered:
        yield tiered


@pytest.mark.parametrize("cold", [False, True])
def test_a_block_larger_than_the_quota_drives_nothing_out(open_store: Callable[..., TieredStore], cold: bool) -> None:
    tiered = open_store("1MiB", {} if cold else None, quotas={"a": 4 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    large, values = random_prompt(small_spec(block_tokens=64), 1)
    (answer,) = put_blocks(store, large.fingerprint, values)
    assert (str(answer.status), answer.tier) == (("stored", "redis") if cold else ("not_kept", ""))
    assert store.lookup(keys).ready == 3 and total(store.stats(), "evicted") == 0


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_kept_already_takes_nothing_more_of_the_quota(tmp_path: Path, sealed: bool) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tables: dict[str, Any] = {"tiers": [{"name": "cpu", "capacity": "1MiB"}, disk]}
    tables["store"] = {"durable_quota": 6 * BLOCK}
    if sealed:
        tables["sealing"] = {"key_file": key_file(tmp_path)}
    keys, blocks = random_prompt(SPEC, 4)
    with compose(tables) as tiered:
        keep(tiered.namespace("a"), keys, blocks)
    with compose(tables) as tiered:
        answers = keep(tiered.namespace("a"), keys, blocks)
        assert [(str(answer.status), answer.tier) for answer in answers] == [("already_exists", "disk")] * 4


def test_what_redis_keeps_counts_until_it_is_deleted_or_cleared(on_redis: TieredStore) -> None:
    store = on_redis.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    other, values = random_prompt(SPEC, 4, seed=2)
    for remove in (lambda: store.delete(keys), lambda: store.clear(), lambda: store.clear("redis")):
        assert {answer.status for answer in keep(store, keys, blocks)} <= {"stored", "already_exists"}
        assert 3 * BLOCK < in_redis(store) < 5 * BLOCK
        with pytest.raises(Overloaded, match=r"store\.durable_quota"):
            keep(store, other, values)
        # it is each namespace's own, and a put that is repeated takes nothing more
        keep(store, keys, blocks)
        keep(on_redis.namespace("b"), other, values)
        assert remove() == 4 and in_redis(store) == 0
    keep(store, other, values)


def test_what_redis_keeps_counts_until_its_time_is_over(on_redis: TieredStore) -> None:
    store = on_redis.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    other, values = random_prompt(SPEC, 4, seed=2)
    ends = time.monotonic() + 2.0
    keep(store, keys, blocks, ttl=2.0)
    with pytest.raises(Overloaded):
        keep(store, other, values)
    time.sleep(max(0.0, ends - time.monotonic()) + 0.1)
    assert in_redis(store) == 0
    keep(store, other, values)


def test_what_others_removed_from_redis_makes_room_there(on_redis: TieredStore, server: Any) -> None:
    store = on_redis.namespace("a")
    prompts = [random_prompt(SPEC, 4, seed) for seed in (1, 2)]
    keep(store, *prompts[0])
    with compose({"tiers": [{"name": "cpu", "capacity": "1MiB"}, {"name": "redis", "url": server.url}]}) as other:
        assert other.namespace("a").clear() == 4
    keep(store, *prompts[1])
    assert 3 * BLOCK < in_redis(store) < 5 * BLOCK
    # memory has the others still; that they were durable once does not let them in
    with pytest.raises(Overloaded):
        keep(store, *prompts[0])


def test_a_put_that_redis_did_not_acknowledge_counts_nothing(on_redis: TieredStore, server: Any) -> None:
    store = on_redis.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    with server.client() as client:
        client.config_set("appendfsync", "everysec")
        with pytest.raises(DurabilityUnmet):
            keep(store, keys, blocks)
        assert in_redis(store) == 0
        client.config_set("appendfsync", "always")
    assert on_redis.settle()
    keep(store, keys, blocks)


def test_what_is_made_durable_counts_by_its_own_size(open_tiers: Callable[..., TieredStore], tmp_path: Path) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, disk], {"durable_quota": 6 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 10)
    put_blocks(store, keys.fingerprint, blocks)
    # a plan may say anything of a block that is there
    tiny = (PlaneId(0, Half.OPAQUE, 0, 1, 1),)
    plans = [BlockPlan(key, 4, tiny) for key in keys.keys]
    with pytest.raises(Overloaded, match=r"store\.durable_quota"):
        store.put(keys.fingerprint, plans, durability=Durability.DURABLE)
    assert total(store.stats(), "tier_durable_bytes", tier="disk") == 0 and not any(tiered.promised.values())
    with store.put(keys.fingerprint, plans[:5], durability=Durability.DURABLE) as put:
        put.commit()
    assert 0 < total(store.stats(), "tier_durable_bytes", tier="disk") <= 6 * BLOCK


def test_two_writers_of_one_prompt_take_its_bytes_once(open_tiers: Callable[..., TieredStore], tmp_path: Path) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, disk], {"durable_quota": 6 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as first:
        with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as second:
            assert {str(answer.status) for answer in second.answers} == {"in_progress"}
        # what the second gave back was not the first's
        with pytest.raises(Overloaded):
            store.put(keys.fingerprint, plans_of(random_prompt(SPEC, 4, 2)[1]), durability=Durability.DURABLE)
        write_blocks(first, blocks)
        first.commit()
    assert not any(tiered.promised.values())
