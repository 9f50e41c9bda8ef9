"""Pins keep a prefix in memory: as long as asked, as far as the quota goes."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cachestore.block import Block
from cachestore.errors import InvalidArgument
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec
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
