"""Why a block left for others, why one was not kept, and why a put was refused: counted by reason."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cachestore.block import Block
from cachestore.errors import DurabilityUnmet, InvalidArgument, Overloaded, TooLarge
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import BlockPlan, Durability, Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, small_spec, write_blocks
from cachestore.tiers.disk import DiskTier

SPEC = small_spec()
BLOCK = 2560
Opener = Callable[..., TieredStore]


def put(store: Store, count: int, seed: int = 1) -> tuple[Chain, list[str]]:
    keys, blocks = random_prompt(SPEC, count, seed)
    return keys, [str(answer.status) for answer in put_blocks(store, keys.fingerprint, blocks)]


def reasons(store: Store, name: str) -> dict[str, int]:
    """By reason, how often the figure `name` counts, over all tiers."""
    figures = [figure for figure in store.stats() if figure.name == name]
    return {reason: total(figures, name, reason=reason) for reason in sorted({f.label("reason") for f in figures})}


def read(store: Store, keys: Chain) -> int:
    with store.read(keys) as reading:
        return len(list(reading))


def test_blocks_leave_a_full_memory_for_others_that_are_put(open_store: Opener) -> None:
    store = open_store(8 * BLOCK).namespace("a")
    put(store, 6)
    put(store, 6, seed=2)
    assert reasons(store, "evicted") == reasons(store, "dropped") == {"capacity": 4}


def test_blocks_leave_for_their_namespaces_quota_though_memory_has_room(open_store: Opener) -> None:
    tiered = open_store(32 * BLOCK, {}, quota=4 * BLOCK, write="eviction")
    store = tiered.namespace("a")
    put(store, 4)
    put(store, 3, seed=2)
    assert reasons(store, "evicted") == reasons(store, "demoted") == {"quota": 3}


def test_blocks_leave_for_those_that_come_up(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, {})
    store = tiered.namespace("a")
    keys, _ = put(store, 6)
    assert tiered.settle() and store.clear("cpu") == 6
    put(store, 8, seed=2)
    assert tiered.settle() and read(store, keys) == 6 and tiered.settle()
    came = total(store.stats(), "promoted", tier="cpu")
    assert reasons(store, "evicted") == {"promotion": came} and came > 0 == total(store.stats(), "dropped")


def disk(folder: Path, capacity: str) -> list[dict[str, object]]:
    return [{"name": "cpu", "capacity": 16 * BLOCK}, {"name": "disk", "path": str(folder), "capacity": capacity}]


@pytest.mark.parametrize("sealed", [False, True])
def test_what_the_disk_hands_on_is_demoted_for_its_capacity(tmp_path: Path, sealed: bool) -> None:
    keys = tmp_path / "keys"
    keys.touch(mode=0o600)
    keys.write_text("1 " + "ab" * 32)
    tables = {"tiers": [*disk(tmp_path / "blocks", "1MiB"), {"name": "redis"}], "store": {"write": "eviction"}}
    with compose(tables | ({"sealing": {"key_file": str(keys)}} if sealed else {})) as tiered:
        store = tiered.namespace("a")
        for seed in range(18):
            assert put(store, 16, seed)[1] == ["stored"] * 16
        figures = store.stats()
        check_sums(figures)
        handed = total(figures, "demoted", tier="redis", reason="capacity")
        assert handed == total(figures, "tier_removed", tier="disk", why="demoted") == 16
        assert total(figures, "tier_added", tier="redis") == 16
        assert (
            total(figures, "demoted", tier="disk", reason="capacity")
            == 17 * 16
            == total(figures, "evicted", tier="cpu")
        )


def test_blocks_leave_a_disk_that_was_given_less_room(open_tiers: Opener, tmp_path: Path) -> None:
    tiered = open_tiers(disk(tmp_path / "blocks", "2MiB"), {})
    for seed in range(24):
        assert put(tiered.namespace("a"), 16, seed)[1] == ["stored"] * 16 and tiered.settle()
    tiered.close()
    store = open_tiers(disk(tmp_path / "blocks", "1MiB"), {}).namespace("a")
    assert reasons(store, "evicted") == {"start": 384 - 256}


def test_a_block_is_not_kept_for_what_it_lacked(open_store: Opener) -> None:
    tiered = open_store(8 * BLOCK, quotas={"poor": 2 * BLOCK})
    rich, poor = tiered.namespace("rich"), tiered.namespace("poor")
    assert put(poor, 3)[1] == ["stored", "stored", "not_kept"]
    lease = rich.lease(put(rich, 8)[0])
    assert put(rich, 2, seed=2)[1] == ["not_kept"] * 2
    assert reasons(poor, "put_not_kept") == {"quota": 1} and reasons(rich, "put_not_kept") == {"capacity": 2}
    rich.release(lease)


def test_a_block_is_not_kept_that_no_tier_took(
    open_tiers: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = open_tiers(disk(tmp_path / "blocks", "1MiB"), {"quotas": {"a": 1}})
    store = tiered.namespace("a")
    assert put(store, 2)[1] == ["stored"] * 2  # straight to the disk

    def full(tier: DiskTier, namespace: bytes, blocks: Sequence[object], *rest: object, **named: object) -> list[bool]:
        return [False] * len(blocks)

    monkeypatch.setattr(DiskTier, "put_many", full)
    assert put(store, 3, seed=2)[1] == ["not_kept"] * 3
    assert reasons(store, "put_not_kept") == {"tiers": 3} and total(store.stats(), "put_stored", tier="disk") == 2


def durable(store: Store, blocks: Sequence[Block], keys: Chain) -> None:
    with store.put(keys.fingerprint, plans_of(blocks), durability=Durability.DURABLE) as put:
        write_blocks(put, blocks)
        put.commit()


def test_a_block_that_is_there_is_not_kept_for_good(
    open_tiers: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiered = open_tiers(disk(tmp_path / "blocks", "1MiB"), {"write": "eviction"})
    store = tiered.namespace("a")
    put(store, 2)
    monkeypatch.setattr(DiskTier, "put_many", lambda self, namespace, blocks, *rest, **named: [False] * len(blocks))
    keys, blocks = random_prompt(SPEC, 2, 1)
    with pytest.raises(DurabilityUnmet):
        durable(store, blocks, keys)
    assert reasons(store, "put_not_kept") == {"durability": 2}


def test_the_blocks_of_a_refused_put_are_counted_by_the_word_of_its_error(open_tiers: Opener, tmp_path: Path) -> None:
    memory = open_tiers([{"name": "cpu", "capacity": 16 * BLOCK}], {}).namespace("a")
    store = open_tiers(disk(tmp_path / "blocks", "1MiB"), {"durable_quota": 3 * BLOCK}).namespace("a")
    keys, blocks = random_prompt(SPEC, 4)
    with pytest.raises(DurabilityUnmet):
        durable(memory, blocks, keys)
    with pytest.raises(InvalidArgument):
        memory.put(keys.fingerprint, plans_of(blocks[:3]), ttl=-1.0)
    large = BlockPlan(bytes(32), 256, small_spec(block_tokens=2560).planes())
    with pytest.raises(TooLarge):
        memory.put(keys.fingerprint, [*plans_of(blocks[:1]), large])
    assert reasons(memory, "put_refused") == {"durability_unmet": 4, "invalid_argument": 3, "too_large": 2}
    with pytest.raises(Overloaded):
        durable(store, blocks, keys)
    assert reasons(store, "put_refused") == {"overloaded": 4} and total(store.stats(), "put_blocks") == 4


def test_leases_beyond_the_bound_are_counted(open_store: Opener) -> None:
    tiered = open_store()
    tiered.leases.most = 1
    store = tiered.namespace("a")
    keys, _ = put(store, 1)
    lease = store.lease(keys)
    with pytest.raises(Overloaded):
        store.lease(keys)
    assert total(store.stats(), "leases_refused") == 1
    store.release(lease)
    store.release(store.lease(keys))
    assert total(store.stats(), "leases_refused") == 1
