"""DURABLE is acknowledged by a tier that keeps the block, or not at all; and what memory has no room for goes lower."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cachestore.errors import DurabilityUnmet, Overloaded
from cachestore.metrics import total
from cachestore.store.base import Durability, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same, write_blocks
from tests.store.durable_puts import BLOCK, FILES, SPEC, keep, read


def test_a_durable_block_is_acknowledged_by_the_disk_and_survives(on_disk: Callable[..., TieredStore]) -> None:
    first = on_disk(write="eviction")
    keys, blocks = random_prompt(SPEC, 3)
    answers = keep(first.namespace("a"), keys, blocks)
    assert [(answer.status, answer.tier) for answer in answers] == [("stored", "disk")] * 3
    assert total(first.namespace("a").stats(), "tier_durable_bytes", tier="disk") > 0
    first.close()
    again = on_disk().namespace("a")
    found = read(again, keys)
    assert [tier for _, tier in found] == ["disk"] * 3 and all(map(same, (block for block, _ in found), blocks))


def test_durable_blocks_stay_on_disk_while_others_leave(on_disk: Callable[..., TieredStore]) -> None:
    tiered = on_disk(memory=40 * BLOCK, capacity=FILES * 4096)
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 3)
    keep(store, keys, blocks)
    for seed in range(2, 10):
        other, values = random_prompt(SPEC, 40, seed)
        put_blocks(store, other.fingerprint, values)
        assert tiered.settle()
    assert total(store.stats(), "tier_removed", tier="disk", why="evicted") > 0
    found = read(store, keys)
    assert [tier for _, tier in found] == ["disk"] * 3 and all(map(same, (block for block, _ in found), blocks))


def test_without_a_tier_that_keeps_blocks_it_is_refused(open_store: Callable[..., TieredStore]) -> None:
    keys, blocks = random_prompt(SPEC, 1)
    with pytest.raises(DurabilityUnmet, match="survives a killed process"):
        keep(open_store("1MiB", {}).namespace("a"), keys, blocks)


def test_what_no_tier_could_keep_is_not_stored(on_disk: Callable[..., TieredStore]) -> None:
    store = on_disk(capacity=FILES * 4096).namespace("a")
    keys, blocks = random_prompt(SPEC, FILES + 10)
    with pytest.raises(DurabilityUnmet, match=rf"of {FILES + 10} blocks"):
        keep(store, keys, blocks)
    figures = store.stats()
    assert total(figures, "put_failed") + total(figures, "put_stored", tier="disk") == FILES + 10
    assert store.lookup(keys).ready == total(figures, "put_stored", tier="disk") <= FILES


def test_a_namespace_keeps_no_more_than_its_quota(on_disk: Callable[..., TieredStore]) -> None:
    store = on_disk(durable_quota=8 * BLOCK).namespace("a")
    keep(store, *random_prompt(SPEC, 4))
    with pytest.raises(Overloaded, match=r"store\.durable_quota"):
        keep(store, *random_prompt(SPEC, 8, seed=2))


def test_a_durable_block_leaves_with_its_time_or_when_it_is_deleted(on_disk: Callable[..., TieredStore]) -> None:
    tiered = on_disk()
    store = tiered.namespace("a")
    keys, blocks = random_prompt(SPEC, 2)
    keep(store, keys, blocks)
    assert store.delete(keys) == 2 and store.lookup(keys).ready == 0
    assert total(store.stats(), "tier_durable_bytes", tier="disk") == 0
    tiered.close()
    assert on_disk().namespace("a").lookup(keys).ready == 0


WRITER = """
import sys
import time
from cachestore.store.base import Durability
from cachestore.store.compose import compose
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": sys.argv[1], "capacity": "64MiB"}]
with compose({"tiers": tiers}) as tiered:
    store = tiered.namespace("a")
    seed = 0
    while True:
        keys, blocks = random_prompt(small_spec(), 4, seed)
        with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
            write_blocks(put, blocks)
            put.commit()
        print(seed, flush=True)
        seed += 1
"""


def test_every_acknowledged_block_is_there_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "blocks"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in writer.stdout.read().split()]
    writer.wait()
    writer.stdout.close()
    tiers = [{"name": "cpu", "capacity": "1MiB"}, {"name": "disk", "path": str(folder), "capacity": "64MiB"}]
    with compose({"tiers": tiers}) as tiered:
        store = tiered.namespace("a")
        for seed in acknowledged:
            keys, blocks = random_prompt(SPEC, 4, seed)
            assert all(map(same, (block for block, _ in read(store, keys)), blocks)), seed
            assert store.lookup(keys).ready == 4


@pytest.mark.parametrize("durability", list(Durability))
def test_a_block_for_which_memory_has_no_room_goes_lower(
    on_disk: Callable[..., TieredStore], durability: Durability
) -> None:
    tiered = on_disk(memory=4 * BLOCK)
    store = tiered.namespace("a")
    held, _ = random_prompt(SPEC, 4)
    put_blocks(store, held.fingerprint, random_prompt(SPEC, 4)[1])
    lease = store.lease(held)
    keys, blocks = random_prompt(SPEC, 2, seed=2)
    with store.put(keys.fingerprint, plans_of(blocks), durability=durability) as put:
        assert [answer.status for answer in put.answers] == ["wanted"] * 2
        write_blocks(put, blocks)
        assert put.commit(lease=10.0) is not None
        assert [(answer.status, answer.tier) for answer in put.answers] == [("stored", "disk")] * 2
    assert tiered.memory.usage().used == 4 * BLOCK and tiered.staging.usage().used == 0
    found = read(store, keys)
    assert [tier for _, tier in found] == ["disk"] * 2 and all(map(same, (block for block, _ in found), blocks))
    store.release(lease)
    for open_lease in list(tiered.leases._open.values()):
        with tiered.index.changed:
            tiered.leases.end(open_lease)


def test_where_nobody_has_room_a_block_is_not_kept(on_disk: Callable[..., TieredStore]) -> None:
    tiered = on_disk(memory=4 * BLOCK, capacity=FILES * 4096)
    store = tiered.namespace("a")
    keep(store, *random_prompt(SPEC, FILES, seed=3))
    held, values = random_prompt(SPEC, 4)
    put_blocks(store, held.fingerprint, values)
    lease = store.lease(held)
    keys, blocks = random_prompt(SPEC, 3, seed=2)
    statuses = [answer.status for answer in put_blocks(store, keys.fingerprint, blocks)]
    assert statuses.count("not_kept") >= 2 and set(statuses) <= {"stored", "not_kept"}
    assert store.lookup(keys).ready == 0 or statuses[0] == "stored"
    assert tiered.staging.usage().used == 0
    store.release(lease)


@pytest.mark.parametrize("remove", ["delete", "clear"])
def test_what_is_deleted_while_it_is_read_does_not_come_back(
    on_disk: Callable[..., TieredStore], monkeypatch: pytest.MonkeyPatch, remove: str
) -> None:
    tiered = on_disk()
    store, (disk,) = tiered.namespace("a"), tiered.cold
    keys, blocks = random_prompt(SPEC, 3)
    keep(store, keys, blocks)
    assert store.clear("cpu") == 3
    method = f"{remove}_many" if remove == "delete" else remove
    real = getattr(disk, method)

    def removing(*arguments: Any, **options: Any) -> Any:
        # a reader comes between the removal from memory and the one from the disk
        assert len(read(store, keys)) == 3 and tiered.settle()
        return real(*arguments, **options)

    monkeypatch.setattr(disk, method, removing)
    assert (store.delete(keys) if remove == "delete" else store.clear()) == 3
    assert tiered.settle() and store.lookup(keys).ready == 0
