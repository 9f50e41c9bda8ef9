"""Reads of blocks below memory: what is fetched ahead, how much at a time, and what there is no room for."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.metrics import total
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same, small_spec
from cachestore.tiers.base import Found
from cachestore.tiers.disk import DiskTier
from cachestore.tiers.spare import Memory
from tests.store.moving import cold, held_up, read, stored, tiers
from tests.store.small_blocks import BLOCK, SPEC

Opener = Callable[..., TieredStore]
Fetches = list[list[tuple[bytes, Found]]]


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    """What the disk was asked for, call by call, and what it gave."""
    made: Fetches = []
    get_many = DiskTier.get_many

    def noting(tier: DiskTier, namespace: bytes, asked: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = get_many(tier, namespace, asked, deadline)
        made.append(list(zip(asked, found, strict=True)))
        return found

    monkeypatch.setattr(DiskTier, "get_many", noting)
    return made


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_lease_brings_its_cold_blocks_up_before_they_are_read(open_store: Opener, prefetch: bool) -> None:
    tiered = open_store("1MiB", {}, prefetch=prefetch)
    store = tiered.namespace("a")
    keys, blocks = cold(tiered, store, 20)
    lease = store.lease(keys)
    assert tiered.settle()
    assert tiers(store, keys) == [(20, "cpu" if prefetch else "redis")]
    with store.read(keys, lease=lease) as reading:
        found = list(reading)
    # what counts is where a block was when it was leased
    assert [tier for _, tier in found] == ["redis"] * 20 and all(map(same, (block for block, _ in found), blocks))
    assert total(store.stats(), "read_hits", tier="redis") == 20


def test_a_prefetch_ends_with_its_lease(open_store: Opener) -> None:
    tiered = open_store("1MiB", {})
    store = tiered.namespace("a")
    keys, _ = cold(tiered, store, 4)
    store.release(store.lease(keys))
    assert tiered.settle() and tiered.promotion.idle


@pytest.mark.parametrize("prefetch", [True, False])
def test_cold_blocks_are_fetched_by_their_bytes(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, fetches: Fetches, prefetch: bool
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    settings = {"prefetch": prefetch, "fetch_bytes": "100KiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk], settings)
    store = tiered.namespace("a")
    small, large = SPEC, small_spec(block_tokens=64 * SPEC.block_tokens)
    for spec, count in ((small, 100), (large, 3), (small, 60)):
        keys, blocks = random_prompt(spec, count, seed=count)
        put_blocks(store, keys.fingerprint, blocks)
        assert tiered.settle() and store.clear("cpu") >= count
        lease = store.lease(keys)
        assert tiered.settle()
        with store.read(keys, lease=lease) as reading:
            assert all(map(same, (block for block, _ in reading), blocks))
        assert tiered.settle()
    batches = [[data.nbytes for _, data in fetch if isinstance(data, np.ndarray)] for fetch in fetches]
    assert all(sum(sizes) <= 101 << 10 or len(sizes) == 1 for sizes in batches)
    # one to know the size, then as many as are allowed; large ones one by one; what is known is known
    assert [len(sizes) for sizes in batches] == [1, 42, 42, 15] + [1] * 3 + [42, 18]


def test_nothing_is_fetched_ahead_for_which_memory_has_no_room(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, fetches: Fetches
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": 16 * BLOCK}, disk], {"fetch_bytes": 2 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = stored(store, 16)
    assert tiered.settle() and store.clear("cpu") == 16
    in_use = store.lease(stored(store, 12, seed=2)[0])
    fetches.clear()
    lease = store.lease(keys)
    assert tiered.settle() and 4 < sum(map(len, fetches)) <= 4 + 2
    # what came up the lease protects there, too
    store.release(in_use)
    put_blocks(store, keys.fingerprint, random_prompt(SPEC, 16, seed=3)[1])
    assert tiers(store, keys) == [(4, "cpu"), (12, "disk")]
    with store.read(keys, lease=lease) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))


def test_a_prefix_that_lies_here_and_there_is_read_whole(
    open_tiers: Callable[..., TieredStore], tmp_path: Path
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk, {"name": "redis"}], {})
    store = tiered.namespace("a")
    keys, _ = stored(store, 6)
    assert tiered.settle() and store.clear("cpu") == 6
    above, below = tiered.cold
    soon = Deadline.after(5)
    assert above.delete_many(store.namespace, [keys.keys[0], keys.keys[3]], soon) == [True] * 2
    others = [key for number, key in enumerate(keys.keys) if number not in (0, 3)]
    assert below.delete_many(store.namespace, others, soon) == [True] * 4
    assert tiers(store, keys) == [(1, "redis"), (2, "disk"), (1, "redis"), (2, "disk")]
    assert len(read(tiered, store, keys)) == 6


def test_blocks_that_there_is_no_memory_to_read_are_missed(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk], {})
    store = tiered.namespace("a")
    keys, _ = stored(store, 4)
    assert tiered.settle() and store.clear("cpu") == 4

    def none_left(memory: Memory, nbytes: int) -> Buffer:
        raise MemoryError

    monkeypatch.setattr(Memory, "take", none_left)
    assert read(tiered, store, keys) == []
    monkeypatch.undo()
    assert len(read(tiered, store, keys)) == 4 and total(store.stats(), "read_misses") == 4


def test_cold_blocks_under_many_leases_are_fetched_once(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, fetches: Fetches
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk], {})
    store = tiered.namespace("a")
    keys, _ = stored(store, 12)
    assert tiered.settle()
    store.clear("cpu")
    fetches.clear()
    goes_on = held_up(tiered)
    leases = [store.lease(keys) for _ in range(5)]
    goes_on.set()
    assert tiered.settle()
    for lease in leases:
        store.release(lease)
    assert [key for fetch in fetches for key, _ in fetch] == list(keys.keys) and tiers(store, keys) == [(12, "cpu")]
