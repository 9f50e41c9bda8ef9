"""What a Redis server that does not acknowledge everything means for a durable put, in this process and over gRPC."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cachestore.errors import DurabilityUnmet, InvalidArgument
from cachestore.metrics import total
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import Durability, Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from cachestore.tiers.redis_durable import Acknowledgement
from cachestore.tiers.resp_errors import Broken

KEYS, BLOCKS = random_prompt(small_spec(), 3)


@pytest.fixture
def server(redis_server: Callable[..., Any]) -> Any:
    return redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"])


@pytest.fixture
def tiered(open_store: Callable[..., TieredStore], server: Any) -> TieredStore:
    redis = {"url": server.url, "durable": "aof", "timeout": 2.0, "connect_timeout": 2.0, "largest": 4096}
    return open_store("1MiB", redis)


@pytest.fixture(params=["direct", "stream", "bulk", "shared"])
def store(request: pytest.FixtureRequest, tiered: TieredStore) -> Iterator[Store]:
    with ExitStack() as stack:
        if request.param == "direct":
            yield tiered.namespace(DEFAULT_NAMESPACE)
            return
        served = stack.enter_context(CacheStoreServer(tiered, ServiceSettings(port=0), "test"))
        yield stack.enter_context(RemoteStore(served.address, transports=sorted({request.param, "stream"})))


def test_what_is_there_and_cannot_be_made_durable_fails_the_put(tiered: TieredStore, store: Store, server: Any) -> None:
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    assert tiered.settle()
    with server.client() as client:
        client.config_set("appendfsync", "everysec")
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
        write_blocks(put, BLOCKS)
        with pytest.raises(DurabilityUnmet, match="3 of 3 blocks"):
            put.commit(lease=5.0)
    assert total(store.stats(), "leases_open") == 0


def test_what_becomes_durable_beside_it_is_published(tiered: TieredStore, store: Store) -> None:
    # too large for this Redis: it stays in memory alone
    _, large = random_prompt(small_spec(block_tokens=64), 1, seed=2)
    put_blocks(store, KEYS.fingerprint, large)
    plans = plans_of([*large, *BLOCKS])
    with store.put(KEYS.fingerprint, plans, durability=Durability.DURABLE) as put:
        assert [str(answer.status) for answer in put.answers] == ["not_kept"] + ["wanted"] * 3
        write_blocks(put, [*large, *BLOCKS])
        put.commit([1])
        with pytest.raises(DurabilityUnmet, match="1 of 3 blocks"):
            put.commit([0, 1, 2], lease=5.0)
        with pytest.raises(InvalidArgument, match="blocks must lie in"):
            put.commit([4])
        put.commit([3])
        assert [str(answer.status) for answer in put.answers] == ["not_kept"] + ["stored"] * 3
    assert store.lookup(KEYS).ready == 3 and total(store.stats(), "leases_open") == 0


@pytest.mark.parametrize("later", [None, 3600.0])
@pytest.mark.parametrize("first", ["cache", "durable"])
@pytest.mark.parametrize("memory", [True, False])
def test_a_block_put_again_with_a_later_end_lives_until_that(
    tiered: TieredStore, later: float | None, first: str, memory: bool
) -> None:
    store = tiered.namespace("a")
    for durability, ttl in ((Durability(first), 0.3), (Durability.DURABLE, later)):
        with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=durability, ttl=ttl) as put:
            write_blocks(put, BLOCKS)
            put.commit()
        assert tiered.settle()
        if not memory:
            store.clear("cpu")
    time.sleep(0.35)
    assert store.lookup(KEYS).ready == 3
    store.clear("cpu")
    for _ in range(2):
        # the first time from Redis, the second from memory, where it was brought by the first
        with store.read(KEYS) as reading:
            assert len(list(reading)) == 3
        assert tiered.settle()


def test_blocks_that_were_made_durable_there_count_as_added(
    open_store: Callable[..., TieredStore], server: Any
) -> None:
    redis = {"url": server.url, "durable": "aof", "timeout": 2.0, "connect_timeout": 2.0}
    store = open_store("1MiB", redis, write="eviction").namespace("a")
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
        put.commit()
    assert total(store.stats(), "tier_added", tier="redis") == 3


def test_a_put_given_up_on_one_node_takes_nothing_from_another(
    open_tiers: Callable[..., TieredStore], server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = {"name": "redis", "url": server.url, "durable": "aof", "timeout": 2.0, "connect_timeout": 2.0}
    ours, theirs = (open_tiers([{"name": "cpu", "capacity": "1MiB"}, redis], {}) for _ in range(2))
    store, other = ours.namespace("a"), theirs.namespace("a")

    def keep(at: Store) -> None:
        with at.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
            write_blocks(put, BLOCKS)
            put.commit()

    put = store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE)
    write_blocks(put, BLOCKS)
    keep(other)
    (tier,) = ours.cold
    real = tier.put_many

    def given_up(*arguments: Any, **options: Any) -> list[bool]:
        kept = real(*arguments, **options)
        put.abort()
        return kept

    monkeypatch.setattr(tier, "put_many", given_up)
    with pytest.raises(DurabilityUnmet):
        put.commit()
    assert ours.settle() and other.clear("cpu") == 3 and other.lookup(KEYS).ready == 3


def test_what_redis_may_have_kept_of_a_failed_put_is_ended_there(
    tiered: TieredStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = tiered.namespace("a"), []
    real = Acknowledgement.given

    def given(self: Acknowledgement, connection: Any, until: float) -> bool:
        asked.append(until)
        if len(asked) == 3:
            raise Broken("timeout")
        return real(self, connection, until)

    monkeypatch.setattr(Acknowledgement, "given", given)
    with pytest.raises(DurabilityUnmet):
        with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
            write_blocks(put, BLOCKS)
            put.commit()
    assert tiered.settle()
    with server.client() as client:
        assert not client.keys("cachestore:durable:*")
