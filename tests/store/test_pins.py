"""Pins keep a prefix in memory: as long as asked, as far as the quota goes."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from cachestore.tiers.disk_files import Files

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., TieredStore]


def prompt(count: int, seed: int) -> tuple[bytes, list[Block]]:
    keys, blocks = random_prompt(SPEC, count, seed)
    return keys.fingerprint, blocks


def test_pinned_blocks_stay_while_others_leave(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, pin_share=0.5)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    assert store.pin(keys, 60) == 3
    for seed in range(2, 6):
        put_blocks(store, *prompt(4, seed))
    assert store.lookup(keys).ready == 3
    assert [pin.key for pin in store.pins()] == sorted(keys.keys)
    assert all(59 < pin.ttl <= 60 and pin.nbytes for pin in store.pins())
    assert total(store.stats(), "pins") == 3 and total(store.stats(), "pinned_bytes") == sum(
        pin.nbytes for pin in store.pins()
    )
    assert store.unpin(keys) == 3 == 3 + store.unpin(keys)
    for seed in range(6, 9):
        put_blocks(store, *prompt(4, seed))
    assert store.lookup(keys).ready == 0


def test_a_pin_ends_with_its_time_and_a_longer_one_stays(open_store: Opener) -> None:
    store = open_store(pin_share=1.0).namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    assert store.pin(keys, 0.05) == 2 and store.pin(keys.first(1), 60) == 1 == store.pin(keys.first(1), 0.05)
    until = time.monotonic() + 10
    while len(store.pins()) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert [pin.key for pin in store.pins()] == [keys.keys[0]] and store.lookup(keys).ready == 2


def test_pins_end_where_the_quota_of_the_namespace_does(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, pin_share=0.25)
    for name in "ab":
        store = tiered.namespace(name)
        keys, blocks = random_prompt(SPEC, 4)
        put_blocks(store, keys.fingerprint, blocks)
        assert store.pin(keys, 60) == 2 == store.pin(keys, 60) and store.pin_quota_left() < BLOCK
        assert store.unpin(keys) == 2 and store.pin_quota_left() == 2 * BLOCK


def test_the_quota_counts_what_one_call_pins(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, pin_share=0.5)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 6)
    put_blocks(store, keys.fingerprint, blocks)
    assert store.pin(keys.first(2), 60) == 2
    assert store.pin(keys, 60) == 4 == len(store.pins()) and store.pin_quota_left() < BLOCK


def test_a_cold_block_is_brought_into_memory_and_pinned(open_store: Opener) -> None:
    tiered = open_store(4 * BLOCK, {}, pin_share=1.0)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 8)
    for index in range(0, 8, 2):
        put_blocks(store, keys.fingerprint, blocks[index : index + 2])
        assert tiered.settle()
    assert store.lookup(keys).runs[0].tier == "redis"
    assert store.pin(keys.first(3), 60) == 3
    assert store.lookup(keys.first(3)).runs[0].tier == "cpu"
    assert total(store.stats(), "read_blocks") == 0


def test_a_pinned_block_that_is_deleted_is_gone_and_unpinned(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    assert store.pin(keys, 60) == 2 == store.delete(keys)
    assert store.lookup(keys).ready == 0 and tiered.memory.usage().used == 0
    tiered.expire()
    assert store.pins() == []


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pin_for_no_time_is_refused(open_store: Opener, ttl: float) -> None:
    with pytest.raises(InvalidArgument, match="a pin lasts"):
        open_store().namespace("a").pin(random_prompt(SPEC, 1)[0], ttl)


def test_a_pin_ends_by_its_deadline_though_what_must_leave_for_it_goes_to_a_slow_disk(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    store_settings = {"write": "eviction", "prefetch": False, "promote_after": 100}
    tiered = open_tiers([{"name": "cpu", "capacity": 8 * BLOCK}, disk], store_settings)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    put_blocks(store, keys.fingerprint, blocks)
    others, blocks = random_prompt(SPEC, 8, 2)
    put_blocks(store, others.fingerprint, blocks)
    assert tiered.settle() and store.lookup(keys).runs[0].tier == "disk"
    create = Files.create

    def slow(files: Files) -> tuple[str, int]:
        time.sleep(2)
        return create(files)

    monkeypatch.setattr(Files, "create", slow)
    began = time.monotonic()
    store.pin(keys, 60, timeout=0.2)
    assert time.monotonic() - began < 1.2


@pytest.mark.slow
def test_copies_of_pinned_blocks_live_on_in_redis_and_end_after_their_pin(
    open_store: Opener, redis_server: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    server = redis_server()
    tiered = open_store(redis={"url": server.url, "ttl": 1.0})
    store = tiered.namespace("a")
    pinned, others, ending = (random_prompt(SPEC, 2, seed) for seed in (1, 2, 3))
    put_blocks(store, pinned[0].fingerprint, pinned[1])
    put_blocks(store, others[0].fingerprint, others[1])
    with store.put(ending[0].fingerprint, plans_of(ending[1]), ttl=1.5) as put:
        write_blocks(put, ending[1])
        put.commit()
    assert tiered.settle() and store.pin(pinned[0], 60) == 2 == store.pin(ending[0], 60)

    def there(chain: Chain) -> int:
        with server.client() as client:
            names = [f"cachestore:block:{store.namespace.hex()}:{key.hex()}" for key in chain.keys]
            assert all(-1 != client.pttl(name) <= 1500 for name in names)
            return int(client.exists(*names))

    eventually(lambda: there(others[0]) == 0)
    assert there(pinned[0]) == 2
    # the copy of a block with an end of its own does not outlive that, pinned or not
    eventually(lambda: there(ending[0]) == 0)
    assert there(pinned[0]) == 2 == store.unpin(pinned[0])
    eventually(lambda: there(pinned[0]) == 0)
    assert store.lookup(pinned[0]).ready == 2


def test_a_pin_never_takes_time_from_a_copy(open_store: Opener, redis_server: Callable[..., Any]) -> None:
    server = redis_server()
    tiered = open_store(redis={"url": server.url, "ttl": 50.0})
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    names = [f"cachestore:block:{store.namespace.hex()}:{key.hex()}" for key in keys.keys]
    with server.client() as client:
        # another node's time to live is longer, and nobody sees why one has none
        assert client.pexpire(names[0], 90_000) and client.persist(names[1])
        assert store.pin(keys, 60) == 2 and tiered.settle()
        assert client.pttl(names[0]) > 80_000 and client.pttl(names[1]) == -1
        assert client.pexpire(names[0], 1_000) and store.pin(keys, 60) == 2 and tiered.settle()
        assert 40_000 < client.pttl(names[0]) <= 50_000
