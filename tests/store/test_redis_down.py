"""Redis dies, hangs and comes back under a store that is being read, written and evicted."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import same
from tests.store.small_blocks import BLOCK, blocks_of, read

Opener = Callable[..., TieredStore]
Ends = Callable[[Any], None]


SECONDS = 0.25


def impatient(server: Any) -> dict[str, Any]:
    """How a store reaches a server that will hang."""
    return {"url": server.url, "connect_timeout": SECONDS, "timeout": SECONDS}


def kill(server: Any) -> None:
    server.kill()


def pause(server: Any) -> None:
    server.pause()


@pytest.mark.parametrize("fail", [kill, pause])
def test_a_store_whose_redis_fails_serves_what_it_holds(
    open_store: Opener, redis_server: Callable[..., Any], fail: Ends
) -> None:
    server = redis_server()
    tiered = open_store(8 * BLOCK, impatient(server), write="eviction")
    store = tiered.namespace("a")
    keys, blocks = blocks_of(12)
    for index in range(0, 12, 4):
        put_blocks(store, keys.fingerprint, blocks[index : index + 4])
    assert store.lookup(keys).ready == 12
    fail(server)
    begun = time.monotonic()
    assert read(store, keys) == [] and store.lookup(keys).ready == 0
    assert all(map(same, read(store, keys.behind(4)), blocks[4:])) and len(read(store, keys.behind(4))) == 8
    others, other_blocks = blocks_of(6, seed=5)
    assert {str(a.status) for a in put_blocks(store, others.fingerprint, other_blocks)} == {"stored"}
    assert all(map(same, read(store, others), other_blocks))
    figures = store.stats()
    assert total(figures, "dropped") == 6 and total(figures, "corruptions") == 0
    assert total(figures, "tier_healthy", tier="redis") == 0
    assert time.monotonic() - begun < 8 * SECONDS + 1


def test_redis_fails_between_lookup_and_read(open_store: Opener, redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    tiered = open_store(redis=server.url, fetch_bytes=1)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(20)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 20
    with store.read(keys) as reading:
        got: list[Block] = []
        for block, tier in reading:
            assert tier == "redis"
            if not got:
                server.kill()
            got.append(block)
    assert 1 <= len(got) < 20 and all(map(same, got, blocks))
    figures = store.stats()
    assert total(figures, "read_hits") == len(got) and total(figures, "read_misses") == 20 - len(got)
    assert total(figures, "corruptions") == 0


def test_a_store_heals_when_redis_comes_back_empty(
    open_store: Opener, redis_server: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    server = redis_server()
    tiered = open_store(8 * BLOCK, server.url)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(16)
    put_blocks(store, keys.fingerprint, blocks[:8])
    put_blocks(store, keys.fingerprint, blocks[8:])
    assert tiered.settle() and store.lookup(keys).ready == 16
    server.kill()
    for _ in range(4):
        read(store, keys)
    server.start()
    eventually(lambda: tiered.cold[0].usage().used > 0)
    assert store.lookup(keys).ready == 0 and len(read(store, keys.behind(8))) == 8
    put_blocks(store, keys.fingerprint, blocks[:8])
    assert tiered.settle() and all(map(same, read(store, keys.first(8)), blocks))
    with server.client() as client:
        assert client.dbsize() >= 8


@pytest.mark.parametrize("fail", [kill, pause])
def test_a_removal_that_redis_did_not_hear_is_reported(
    open_store: Opener, redis_server: Callable[..., Any], fail: Ends
) -> None:
    server = redis_server()
    tiered = open_store(redis=impatient(server))
    store = tiered.namespace("a")
    keys, blocks = blocks_of(2)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    fail(server)
    calls: list[Callable[[], int]] = [lambda: store.delete(keys), store.clear, lambda: store.clear("redis")]
    for call in calls:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="redis"):
            call()
        assert time.monotonic() - begun < 2 * SECONDS + 1
    assert store.lookup(keys).ready == 0 and store.clear("cpu") == 0


def test_blocks_leave_when_redis_evicts_or_forgets_them(open_store: Opener, redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    tiered = open_store(redis=server.url)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 3
    with store.read(keys) as reading, server.client() as client:
        client.flushall()
        assert list(reading) == []
    assert total(store.stats(), "read_misses") == 3 and total(store.stats(), "corruptions") == 0


def test_closing_is_not_held_up_by_a_redis_that_hangs(open_store: Opener, redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    tiered = open_store("16MiB", impatient(server))
    store = tiered.namespace("a")
    server.pause()
    keys, blocks = blocks_of(64)
    for index in range(64):
        put_blocks(store, keys.fingerprint, blocks[index : index + 1], timeout=2.0)
    begun = time.monotonic()
    tiered.close()
    assert time.monotonic() - begun < 4 * SECONDS + 1
    store.clear("cpu")


def test_statistics_come_in_time_from_a_store_whose_redis_hangs(
    open_store: Opener, redis_server: Callable[..., Any]
) -> None:
    server = redis_server()
    store = open_store("1MiB", {"url": server.url, "timeout": 5.0, "connect_timeout": 5.0}).namespace("a")
    assert total(store.stats(), "tier_used_bytes", tier="redis") > 0
    server.pause()
    try:
        began = time.monotonic()
        figures = store.stats(timeout=0.2)
        assert time.monotonic() - began < 1.2 and total(figures, "tier_used_bytes", tier="redis") == 0
    finally:
        server.resume()
