"""When blocks move between the tiers: down with a put, after it or at the end; up when they are read or leased."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from cachestore.block import Block, Buffer
from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.tiers.base import Found
from cachestore.tiers.disk import DiskTier
from cachestore.tiers.spare import Memory

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., TieredStore]


def stored(store: Store, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    keys, blocks = random_prompt(SPEC, count, seed)
    assert {answer.status for answer in put_blocks(store, keys.fingerprint, blocks)} == {"stored"}
    return keys, blocks


def tiers(store: Store, keys: Chain) -> list[tuple[int, str]]:
    return [(run.blocks, run.tier) for run in store.lookup(keys).runs]


def read(tiered: TieredStore, store: Store, keys: Chain) -> list[Block]:
    with store.read(keys) as reading:
        blocks = [block for block, _ in reading]
    assert tiered.settle()
    return blocks


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


def cold(tiered: TieredStore, store: Store, count: int) -> tuple[Chain, list[Block]]:
    """Blocks that only Redis has."""
    keys, blocks = stored(store, count)
    assert tiered.settle() and store.clear("cpu") == count
    assert tiers(store, keys) == [(count, "redis")]
    return keys, blocks


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


def held_up(tiered: TieredStore) -> Event:
    """Keeps the mover busy until the event is set."""
    goes_on = Event()
    assert tiered.mover.submit(lambda: bool(goes_on.wait(10)) and None) is not None
    return goes_on


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


@pytest.mark.parametrize("prefetch", [True, False])
def test_cold_blocks_are_fetched_by_their_bytes(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    settings = {"prefetch": prefetch, "fetch_bytes": "100KiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk], settings)
    store = tiered.namespace("a")
    batches: list[list[int]] = []
    get_many = DiskTier.get_many

    def counting(tier: DiskTier, namespace: bytes, asked: Sequence[bytes], deadline: Deadline) -> list[Found]:
        found = get_many(tier, namespace, asked, deadline)
        batches.append([data.nbytes for data in found if isinstance(data, np.ndarray)])
        return found

    monkeypatch.setattr(DiskTier, "get_many", counting)
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
    assert all(sum(sizes) <= 101 << 10 or len(sizes) == 1 for sizes in batches)
    # one to know the size, then as many as are allowed; large ones one by one; what is known is known
    assert [len(sizes) for sizes in batches] == [1, 42, 42, 15] + [1] * 3 + [42, 18]


def test_nothing_is_fetched_ahead_for_which_memory_has_no_room(
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": 16 * BLOCK}, disk], {"fetch_bytes": 2 * BLOCK})
    store = tiered.namespace("a")
    keys, blocks = stored(store, 16)
    assert tiered.settle() and store.clear("cpu") == 16
    in_use = store.lease(stored(store, 12, seed=2)[0])
    fetched: list[bytes] = []
    get_many = DiskTier.get_many

    def counting(tier: DiskTier, namespace: bytes, asked: Sequence[bytes], deadline: Deadline) -> list[Found]:
        fetched.extend(asked)
        return get_many(tier, namespace, asked, deadline)

    monkeypatch.setattr(DiskTier, "get_many", counting)
    lease = store.lease(keys)
    assert tiered.settle() and 4 < len(fetched) <= 4 + 2
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
    open_tiers: Callable[..., TieredStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "4MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "4MiB"}, disk], {})
    store = tiered.namespace("a")
    keys, _ = stored(store, 12)
    assert tiered.settle()
    store.clear("cpu")
    fetched: list[bytes] = []
    get_many = DiskTier.get_many

    def counting(tier: DiskTier, namespace: bytes, asked: Sequence[bytes], deadline: Deadline) -> list[Found]:
        fetched.extend(asked)
        return get_many(tier, namespace, asked, deadline)

    monkeypatch.setattr(DiskTier, "get_many", counting)
    goes_on = held_up(tiered)
    leases = [store.lease(keys) for _ in range(5)]
    goes_on.set()
    assert tiered.settle()
    for lease in leases:
        store.release(lease)
    assert fetched == list(keys.keys) and tiers(store, keys) == [(12, "cpu")]
