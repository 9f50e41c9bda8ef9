"""Whatever many threads did: the sums of docs/statistics.md hold, and the tiers hold what their ledgers say."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, DurabilityUnmet, Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import Figure, total
from cachestore.store.base import Durability, Purpose, Verdict
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec, write_blocks

SPEC = small_spec()
BLOCK = 2560
PROMPTS = [random_prompt(SPEC, 6, seed) for seed in range(4)]
NAMES = "ab"


class History:
    """What one thread does with the store, by a random source of its own; all that it asks for it remembers."""

    def __init__(self, tiered: TieredStore, seed: int) -> None:
        self.tiered, self.random = tiered, Random(seed)
        self.asked = dict.fromkeys(NAMES, 0)
        self.offered = dict.fromkeys(NAMES, 0)
        self.looked = dict.fromkeys(NAMES, 0)

    def go(self, steps: int) -> "History":
        """Does so many things."""
        for _ in range(steps):
            name = self.random.choice(NAMES)
            keys, blocks = self.random.choice(PROMPTS)
            count = self.random.randint(1, len(blocks))
            action: Callable[..., None] = self.random.choice(
                [self.put, self.put, self.read, self.read, self.leave, self.look, self.pin, self.remove]
            )
            try:
                action(name, self.tiered.namespace(name), keys.first(count), blocks[:count])
            except (DurabilityUnmet, Overloaded):
                continue
        return self

    def put(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        durability = self.random.choice([Durability.CACHE, Durability.CACHE, Durability.DURABLE])
        ttl = self.random.choice([None, None, 0.02])
        self.offered[name] += len(blocks)
        with store.put(keys.fingerprint, plans_of(blocks), durability=durability, ttl=ttl) as put:
            written = blocks if self.random.random() < 0.8 else blocks[:-1]
            if written:
                write_blocks(put, written)
            if self.random.random() < 0.9:
                put.commit(self.random.choice([None, [0]]))

    def read(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        purpose = self.random.choice(list(Purpose))
        most = self.random.randint(0, len(blocks))
        with store.read(keys, purpose=purpose) as reading:
            self.asked[name] += len(keys)
            for index, (block, _) in enumerate(reading):
                assert same(block, blocks[index])
                if index == most:
                    break

    def leave(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        lease = store.lease(keys, ttl=self.random.choice([None, 0.01]))
        if self.random.random() < 0.5:
            time.sleep(0.005)
        try:
            store.release(lease, [self.random.choice([Verdict.USED, Verdict.UNREAD])] * lease.blocks)
        except CacheStoreError as error:
            assert error.reason == "lease_expired"

    def look(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        store.lookup(keys)
        self.looked[name] += len(keys)

    def pin(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        store.pin(keys, 0.02) if self.random.random() < 0.7 else store.unpin(keys)

    def remove(self, name: str, store: LocalStore, keys: Chain, blocks: list[Any]) -> None:
        if self.random.random() < 0.8:
            store.delete(keys)
        else:
            store.clear(self.random.choice(["", "cpu", "disk", "gpu"]))


def figures_hold(tiered: TieredStore, folder: Path, histories: list[History]) -> None:
    """Asserts the sums, that they are of what was asked, and that every ledger says what its medium has."""
    assert tiered.settle()
    tiered.expire()
    tiered.check()
    for name in NAMES:
        store = tiered.namespace(name)
        figures = store.stats()
        check_sums(figures)
        for gauge in ("read_open", "put_open", "puts_open", "leases_open"):
            assert total(figures, gauge) == 0, gauge
        assert total(figures, "read_blocks") == sum(history.asked[name] for history in histories)
        assert total(figures, "put_blocks") == sum(history.offered[name] for history in histories)
        assert total(figures, "lookup_blocks") == sum(history.looked[name] for history in histories)
        histograms_hold(figures)
        memory_holds(tiered, store, figures)
        files_hold(folder / store.namespace.hex(), figures)


def histograms_hold(figures: list[Figure]) -> None:
    for count in (figure for figure in figures if figure.name == "time_count"):
        buckets = [f for f in figures if f.name == "time_bucket" and f.label("op") == count.label("op")]
        heights = [f.value for f in sorted(buckets, key=lambda f: int(f.label("le")))]
        assert heights == sorted(heights) and 0 <= heights[-1] <= count.value
    lookups = total(figures, "time_count", op="lookup")
    assert lookups == total(figures, "lookups")


def memory_holds(tiered: TieredStore, store: LocalStore, figures: list[Figure]) -> None:
    entries = tiered.index.entries(store.namespace)
    assert total(figures, "tier_blocks", tier="cpu") == len(entries)
    assert total(figures, "tier_bytes", tier="cpu") == sum(entry.slot.nbytes for entry in entries)
    for cold in tiered.cold:
        claimed = [entry.name.key for entry in entries if cold.name in entry.cold]
        assert all(cold.present(store.namespace, claimed, Deadline.after(5)))
    came = total(figures, "promoted", tier="cpu") + total(figures, "put_stored")
    left = total(figures, "tier_removed", tier="cpu")
    # a block for which memory had no room was stored without coming there
    assert total(figures, "tier_blocks", tier="cpu") <= came - left
    evicted = total(figures, "evicted", tier="cpu")
    assert evicted == total(figures, "tier_removed", tier="cpu", why="evicted")
    assert total(figures, "demoted") + total(figures, "dropped") <= evicted
    if store is not tiered.namespace("b"):
        assert total(figures, "evicted", tier="cpu", reason="quota") == 0


def files_hold(folder: Path, figures: list[Figure]) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert total(figures, "tier_blocks", tier="disk") == len(sizes)
    assert total(figures, "tier_bytes", tier="disk") == sum(sizes)


def at_rest(holds: Callable[[], None]) -> None:
    """Asserts it a clock's tick after the last time to live is over: by then nothing moves by itself any more."""
    until = time.monotonic() + 10
    while True:
        time.sleep(0.35)
        try:
            return holds()
        except AssertionError:
            # the clock of a busy machine may be late
            if time.monotonic() > until:
                raise


def run(folder: Path, seeds: list[int], steps: int, write: str) -> None:
    tiers = [
        {"name": "cpu", "capacity": 12 * BLOCK},
        {"name": "gpu", "device": "cpu", "capacity": "2MiB"},
        {"name": "disk", "path": str(folder), "capacity": "1MiB"},
    ]
    store = {
        "write": write,
        "write_delay": 0.01,
        "hot_after": 2,
        "quotas": {"b": 6 * BLOCK},
        "durable_quota": 9 * BLOCK,
    }
    with compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": store}) as tiered:
        histories = [History(tiered, seed) for seed in seeds]
        with ThreadPoolExecutor(len(seeds)) as threads:
            done = [threads.submit(history.go, steps) for history in histories]
            for future in done:
                future.result()
        at_rest(lambda: figures_hold(tiered, folder, histories))
        for name in NAMES:
            tiered.namespace(name).clear()
        assert tiered.settle()
        assert tiered.memory.usage().used == 0 == tiered.staging.usage().used
        assert all(tier.usage().used == 0 for tier in tiered.cold)


@pytest.mark.parametrize("write", ["through", "back", "eviction"])
def test_the_sums_hold_after_any_history(tmp_path: Path, write: str) -> None:
    numbers = iter(range(1000))

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, 1 << 30), min_size=1, max_size=4), st.integers(20, 60))
    def check(seeds: list[int], steps: int) -> None:
        run(tmp_path / str(next(numbers)), seeds, steps, write)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("write", ["through", "back", "eviction"])
def test_the_sums_hold_after_a_long_history_of_many_threads(tmp_path: Path, write: str) -> None:
    for seed in range(4):
        run(tmp_path / str(seed), [8 * seed + thread for thread in range(8)], 400, write)
