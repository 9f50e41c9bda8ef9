"""A durable put of a block that is there already: in memory, on disk, or just being written by another."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.errors import DurabilityUnmet
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Durability, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, write_blocks
from tests.store.durable_puts import FILES, SPEC, keep, read


def test_a_block_that_is_there_becomes_durable(on_disk: Callable[..., TieredStore]) -> None:
    tiered = on_disk(write="eviction")
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    put_blocks(store, keys.fingerprint, blocks)
    assert total(store.stats(), "tier_blocks", tier="disk") == 0
    assert [(a.status, a.tier) for a in keep(store, keys, blocks)] == [("already_exists", "disk")] * 3
    durable = total(store.stats(), "tier_durable_bytes", tier="disk")
    assert durable == total(store.stats(), "tier_bytes", tier="disk") > 0
    # once more changes nothing
    assert [(a.status, a.tier) for a in keep(store, keys, blocks)] == [("already_exists", "disk")] * 3
    assert total(store.stats(), "tier_durable_bytes", tier="disk") == durable
    tiered.close()
    assert all(map(same, (block for block, _ in read(on_disk().namespace("a"), keys)), blocks))


def test_a_copy_on_disk_becomes_durable_there(on_disk: Callable[..., TieredStore]) -> None:
    tiered = on_disk()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and store.clear("cpu") == 2
    assert [(a.status, a.tier) for a in keep(store, keys, blocks)] == [("already_exists", "disk")] * 2
    assert total(store.stats(), "tier_durable_bytes", tier="disk") > 0


@pytest.mark.parametrize("ttl", [None, pytest.param(3600.0, marks=pytest.mark.slow)])
def test_a_durable_put_over_a_block_that_would_end_soon_lives_as_long_as_it_says(
    on_disk: Callable[..., TieredStore], ttl: float | None
) -> None:
    tiered = on_disk()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    with store.put(keys.fingerprint, plans_of(blocks), ttl=1.5) as put:
        write_blocks(put, blocks)
        put.commit()
    assert tiered.settle()
    assert [(a.status, a.tier) for a in keep(store, keys, blocks, ttl)] == [("already_exists", "disk")] * 2
    time.sleep(2.0)
    assert store.lookup(keys).ready == 2
    tiered.close()
    found = read(on_disk().namespace("a"), keys)
    assert all(map(same, (block for block, _ in found), blocks)) and len(found) == 2


def test_a_block_that_is_committed_twice_at_once_is_written_once(on_disk: Callable[..., TieredStore]) -> None:
    store = on_disk().namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit([0, 0, 1, 1])
    assert total(store.stats(), "tier_added", tier="disk") == 2 == store.lookup(keys).ready


@pytest.mark.parametrize("ends", [None, 3600.0])
def test_a_durable_put_that_is_repeated_writes_nothing_unless_it_ends_later(
    on_disk: Callable[..., TieredStore], ends: float | None
) -> None:
    tiered = on_disk(capacity=FILES * 4096)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, FILES)
    keep(store, keys, blocks)
    for memory in (True, False):
        added = total(store.stats(), "tier_added", tier="disk")
        answers = keep(store, keys, blocks, ends)
        assert {(str(answer.status), answer.tier) for answer in answers} == {("already_exists", "disk")}
        assert total(store.stats(), "tier_added", tier="disk") == added
        if memory:
            store.clear("cpu")
    assert store.delete(keys) == FILES
    keep(store, keys.first(1), blocks[:1], ttl=1.0)
    keep(store, keys.first(1), blocks[:1], ends)
    time.sleep(1.1)
    assert store.clear("cpu") == 1 and len(read(store, keys.first(1))) == 1


def test_a_kept_copy_that_has_spoiled_is_written_again(on_disk: Callable[..., TieredStore], tmp_path: Path) -> None:
    store = on_disk().namespace("a")
    keys, blocks = random_prompt(SPEC, 1)
    keep(store, keys, blocks)
    (path,) = [path for path in (tmp_path / "blocks").rglob(keys.keys[0].hex()) if path.is_file()]
    path.write_bytes(path.read_bytes()[:-64] + bytes(64))
    keep(store, keys, blocks)
    assert store.clear("cpu") == 1 and all(map(same, (block for block, _ in read(store, keys)), blocks))


def test_a_block_that_another_writer_publishes_meanwhile_becomes_durable_too(
    on_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = on_disk(write="eviction")
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    tier = tiered.cold[0]
    present = tier.present

    def overtaken(*arguments: Any) -> Any:
        # between the look for blocks that are there, and the reservation
        monkeypatch.undo()
        before = present(*arguments)
        put_blocks(store, keys.fingerprint, blocks)
        return before

    monkeypatch.setattr(tier, "present", overtaken)
    answers = keep(store, keys, blocks)
    assert {(str(answer.status), answer.tier) for answer in answers} == {("already_exists", "disk")}
    tiered.close()
    assert len(read(on_disk().namespace("a"), keys)) == 2


def test_what_another_writer_has_is_not_acknowledged_as_durable(on_disk: Callable[..., TieredStore]) -> None:
    store = on_disk(write="eviction").namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    with store.put(keys.fingerprint, plans_of(blocks)) as other:
        with pytest.raises(DurabilityUnmet, match="another writer's"):
            keep(store, keys, blocks)
        write_blocks(other, blocks)
        other.commit()
    with pytest.raises(DurabilityUnmet, match="2 of 2"):
        keep(store, Chain(b"z" * 32, keys.keys), blocks)
    assert {str(answer.status) for answer in keep(store, keys, blocks)} == {"already_exists"}
