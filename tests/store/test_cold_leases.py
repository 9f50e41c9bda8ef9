"""Leases on blocks that only a lower tier has, where memory has no room for them."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachestore.block import Block
from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.seal import Header
from cachestore.store.base import Lease, Store, Verdict, put_blocks
from cachestore.store.compose import compose
from cachestore.store.owned_page import OfferedPage, PageOwner
from cachestore.store.owned_slabs import OfferedSlab
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec, write_blocks
from cachestore.testing.tiers import soon
from cachestore.tiers.disk import DiskTier
from cachestore.tiers.gpu_memory import GRANULE, HostMemory, share_readable
from cachestore.tiers.gpu_words import UNIT, words_bytes

SPEC = small_spec()
BLOCK = 2560
ROOM = 256
"""Files of one block that a disk tier of 1 MiB holds."""


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def tiered(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TieredStore]:
    """A memory of 16 blocks above a disk of `ROOM`; nothing is fetched before it is read."""
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text("1 " + "ab" * 32)
    tables = {
        "tiers": [
            {"name": "cpu", "capacity": 16 * BLOCK},
            {"name": "disk", "path": str(tmp_path / "blocks"), "capacity": "1MiB"},
        ],
        "store": {"prefetch": False},
    }
    with compose(tables | ({"sealing": {"key_file": str(keys)}} if request.param else {})) as tiered:
        yield tiered
        assert tiered.settle()
        tiered.check()
        check_sums(tiered.namespace("a").stats())


def cold(tiered: TieredStore, count: int, ttl: float | None = None) -> tuple[Chain, list[Block]]:
    """Blocks that only the disk has."""
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, count)
    with store.put(keys.fingerprint, plans_of(blocks), ttl=ttl) as put:
        write_blocks(put, blocks)
        put.commit()
    assert tiered.settle() and store.clear("cpu") == count
    assert [(run.blocks, run.tier) for run in store.lookup(keys).runs] == [(count, "disk")]
    return keys, blocks


def fill(tiered: TieredStore, first: int) -> None:
    """Puts as many other blocks as the disk has room for, of random sources from `first` on."""
    for seed in range(first, first + ROOM // 16):
        keys, blocks = random_prompt(SPEC, 16, seed)
        put_blocks(tiered.namespace("a"), keys.fingerprint, blocks)
        assert tiered.settle()


def read(store: Store, keys: Chain, lease: Lease | None) -> Sequence[Block]:
    with store.read(keys, lease=lease) as reading:
        return [block for block, _ in reading]


def test_leased_blocks_stay_on_a_disk_that_others_fill(tiered: TieredStore) -> None:
    store = tiered.namespace("a")
    keys, blocks = cold(tiered, 8)
    lease, other = store.lease(keys), store.lease(keys.first(4))
    fill(tiered, 100)
    assert total(store.stats(), "evicted", tier="disk") > 0
    found = read(store, keys, lease)
    assert len(found) == 8 and all(map(same, found, blocks)) and tiered.settle()
    # that lease is over, the other one is not; and what came up with the read leaves memory again
    fill(tiered, 200)
    assert [(run.blocks, run.tier) for run in store.lookup(keys).runs] == [(4, "disk")]
    store.release(other)
    fill(tiered, 300)
    assert store.lookup(keys).ready == 0


def test_nothing_leaves_a_disk_that_is_leased_whole(tiered: TieredStore) -> None:
    store = tiered.namespace("a")
    (disk,) = tiered.cold
    leases = []
    for seed in range(2, 2 + ROOM // 16):
        keys, blocks = random_prompt(SPEC, 16, seed)
        put_blocks(store, keys.fingerprint, blocks)
        assert tiered.settle()
        store.clear("cpu")
        leases.append(store.lease(keys))
    assert [lease.blocks for lease in leases] == [16] * (ROOM // 16)
    keys, blocks = random_prompt(SPEC, 4, seed=1)
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle() and disk.usage().used <= disk.usage().capacity
    assert total(store.stats(), "evicted", tier="disk") == 0
    assert [(run.blocks, run.tier) for run in store.lookup(keys).runs] == [(4, "cpu")]
    for lease in leases:
        store.release(lease)


def test_a_leased_block_on_disk_is_read_after_its_end_and_goes_with_the_lease(tiered: TieredStore) -> None:
    store = tiered.namespace("a")
    keys, blocks = cold(tiered, 4, ttl=0.6)
    lease = store.lease(keys)
    until = soon()
    while store.lookup(keys).ready:
        until.check("waiting for the blocks to end")
        time.sleep(0.02)
    time.sleep(0.6)  # the tier looks for what is over every quarter of a second
    assert total(store.stats(), "tier_blocks", tier="disk") == 4
    assert store.lease(keys).blocks == 0
    found = read(store, keys, lease)
    assert len(found) == 4 and all(map(same, found, blocks))
    while total(store.stats(), "tier_removed", tier="disk", why="ttl") < 4:
        until.check("waiting for the blocks to go")
        time.sleep(0.02)


def test_a_leased_block_on_disk_that_is_deleted_goes_at_once(tiered: TieredStore) -> None:
    store = tiered.namespace("a")
    keys, _ = cold(tiered, 4)
    lease = store.lease(keys)
    assert store.delete(keys) == 4 and not read(store, keys, lease)
    assert total(store.stats(), "tier_blocks", tier="disk") == 0


def test_a_block_that_leaves_while_a_lease_is_taken_is_not_leased(
    tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiered.namespace("a")
    keys, _ = cold(tiered, 4)
    protect: Callable[[DiskTier, bytes, Sequence[bytes]], list[bool]] = DiskTier.protect

    def late(tier: DiskTier, namespace: bytes, asked: Sequence[bytes]) -> list[bool]:
        tier.delete_many(namespace, list(asked)[2:], soon())
        return protect(tier, namespace, asked)

    monkeypatch.setattr(DiskTier, "protect", late)
    lease = store.lease(keys)
    assert lease.blocks == 2
    store.release(lease)


@contextmanager
def registered(tiered: TieredStore, keys: Chain) -> Iterator[PageOwner]:
    """A worker that says it has these blocks on its device, too."""
    memory = HostMemory().allocate(GRANULE)
    mapped, words = share_readable(words_bytes(GRANULE))
    generations = memoryview(mapped).cast("Q")
    pages = []
    for place, data in enumerate(tiered.cold[0].get_many(namespace_id("a"), keys.keys, soon())):
        generations[place] = place + 1
        pages.append(OfferedPage(1, place * UNIT, place + 1, Header.parse(data).packed))
    owner = tiered.pages.begin(namespace_id("a"), "cpu")
    tiered.pages.register(owner, [OfferedSlab(1, GRANULE, b"", words, memory.descriptor)], pages)
    try:
        yield owner
    finally:
        tiered.pages.end(owner)
        os.close(words)
        memory.close()


def test_a_leased_page_s_copy_on_disk_stays_until_it_is_needed(tiered: TieredStore) -> None:
    store = tiered.namespace("a")
    keys, _ = cold(tiered, 8)
    with registered(tiered, keys) as owner:
        reading = store.open(keys, show=lambda chain: tiered.pages.leading(owner.namespace, chain, "cpu", None))
        assert [(run.blocks, run.tier) for run in reading.lease.runs] == [(8, "gpu")]
        fill(tiered, 100)
        tiered.pages.end(owner)
        store.missed(reading.lease.id, 0)
        assert [(block.tier, block.header.key) for block in reading] == [("disk", key) for key in keys.keys]
        store.release(reading.lease, [Verdict.USED] * 8)
