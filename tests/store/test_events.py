"""What followers of a namespace hear is what its tiers have, whatever happened."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.store.base import Durability, put_blocks
from cachestore.store.events import Change, Event
from cachestore.store.following import Follower, Snapshot, joined
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks

SPEC = small_spec()
CHAIN, BLOCKS = random_prompt(SPEC, 12)
OTHERS, OTHER_BLOCKS = random_prompt(SPEC, 12, 2)
FINGERPRINT = CHAIN.fingerprint
SOON = 5.0

Heard = dict[str, set[bytes]]


class Hearing:
    """What somebody knows who follows the namespace "a" of a store."""

    def __init__(self, tiered: TieredStore, epoch: int = 0, sequence: int = 0) -> None:
        self.follower = Follower(tiered.events, tiered.namespace("a").namespace, epoch, sequence)
        self.known: Heard = {}
        self.snapshots = 0
        self.events: list[Event] = []

    def hear(self) -> Heard:
        """Takes what there is; the keys known by tier."""
        while heard := self.follower.take(0.0):
            if isinstance(heard, Snapshot):
                self.known = {}
                self.snapshots += 1
                for tier, _, keys in heard.contents:
                    self.known.setdefault(tier, set()).update(keys)
            else:
                self.events += heard
                self._apply(heard)
        return {tier: keys for tier, keys in self.known.items() if keys}

    def _apply(self, events: Iterable[Event]) -> None:
        for change, tier, _, keys in events:
            held = self.known.setdefault(tier, set())
            if change is Change.STORED:
                held |= set(keys)
            elif change is Change.REMOVED:
                held -= set(keys)
            else:
                held.clear()


def truth(tiered: TieredStore, keys: Sequence[bytes] = (*CHAIN.keys, *OTHERS.keys)) -> Heard:
    """What the tiers say of these keys."""
    namespace = tiered.namespace("a").namespace
    with tiered.index.changed:
        there = {tiered.memory.name: {entry.name.key for entry in tiered.index.entries(namespace)}}
    for tier in tiered.lower:
        present = tier.present(namespace, keys, Deadline.after(SOON))
        there[tier.name] = {key for key, is_there in zip(keys, present, strict=True) if is_there}
    return {tier: held for tier, held in there.items() if held}


def eventually(hearing: Hearing, tiered: TieredStore) -> None:
    """Asserts that what was heard comes to be what is there."""
    assert tiered.settle(SOON)
    until = time.monotonic() + SOON
    while hearing.hear() != truth(tiered) and time.monotonic() < until:
        time.sleep(0.01)
    assert hearing.hear() == truth(tiered)


def put(tiered: TieredStore, first: int, last: int, **how: Any) -> None:
    blocks = BLOCKS[first:last]
    with tiered.namespace("a").put(FINGERPRINT, plans_of(blocks), **how) as open_put:
        write_blocks(open_put, blocks)
        open_put.commit()


@pytest.fixture
def tiers(open_tiers: Callable[..., TieredStore], tmp_path: Path) -> Callable[..., TieredStore]:
    """A store of memory, a device that is this computer, and a disk."""

    def start(memory: str = "4MiB", disk: str = "4MiB", **store: Any) -> TieredStore:
        gpu = {"name": "gpu", "device": "cpu", "capacity": "4MiB"}
        cold = {"name": "disk", "path": str(tmp_path / "disk"), "capacity": disk}
        return open_tiers([{"name": "cpu", "capacity": memory}, gpu, cold], store)

    return start


def test_a_follower_hears_in_order_what_comes_and_goes(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    put(tiered, 0, 1)
    hearing = Hearing(tiered)
    assert hearing.hear() == {"cpu": {CHAIN.keys[0]}} and hearing.snapshots == 1
    put(tiered, 1, 3)
    tiered.namespace("a").delete(Chain(FINGERPRINT, CHAIN.keys[1:2]))
    hearing.hear()
    assert [(event.change, event.keys) for event in hearing.events] == [
        (Change.STORED, CHAIN.keys[1:3]),
        (Change.REMOVED, (CHAIN.keys[1],)),
    ]
    assert all(event.tier == "cpu" and event.fingerprint == FINGERPRINT for event in hearing.events)
    assert hearing.snapshots == 1


def test_nobody_hears_of_another_namespace(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    hearing = Hearing(tiered)
    hearing.hear()
    put_blocks(tiered.namespace("b"), FINGERPRINT, BLOCKS[:2])
    assert hearing.hear() == {} and hearing.events == []


def test_what_is_being_written_or_was_given_up_is_not_heard_of(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    hearing = Hearing(tiered)
    with tiered.namespace("a").put(FINGERPRINT, plans_of(BLOCKS[:2])) as open_put:
        write_blocks(open_put, BLOCKS[:2])
        assert hearing.hear() == {}
    assert hearing.hear() == {} and hearing.events == []


def test_copies_that_arrive_below_are_heard_of(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers()
    hearing = Hearing(tiered)
    hearing.hear()
    put(tiered, 0, 2)
    assert tiered.settle()
    assert hearing.hear() == {"cpu": set(CHAIN.keys[:2]), "disk": set(CHAIN.keys[:2])}


def test_a_durable_block_is_heard_of_below(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers(write="eviction")
    hearing = Hearing(tiered)
    put(tiered, 0, 1, durability=Durability.DURABLE)
    put(tiered, 1, 2)
    put(tiered, 1, 2, durability=Durability.DURABLE)
    assert hearing.hear()["disk"] == set(CHAIN.keys[:2])
    eventually(hearing, tiered)


def test_what_is_read_often_is_heard_of_above(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers(hot_after=1)
    hearing = Hearing(tiered)
    put(tiered, 0, 2)
    with tiered.namespace("a").read(Chain(FINGERPRINT, CHAIN.keys[:2])) as reading:
        assert len(list(reading)) == 2
    assert tiered.settle()
    assert hearing.hear()["gpu"] == set(CHAIN.keys[:2])
    eventually(hearing, tiered)


@pytest.mark.parametrize("tier", ["", "cpu", "gpu", "disk"])
def test_clearing_is_heard_of(tiers: Callable[..., TieredStore], tier: str) -> None:
    tiered = tiers(hot_after=1)
    hearing = Hearing(tiered)
    put(tiered, 0, 3)
    with tiered.namespace("a").read(Chain(FINGERPRINT, CHAIN.keys[:3])) as reading:
        list(reading)
    eventually(hearing, tiered)
    before = set(hearing.hear())
    assert before == {"cpu", "gpu", "disk"}
    tiered.namespace("a").clear(tier)
    assert set(hearing.hear()) == (before - {tier} if tier else set())
    eventually(hearing, tiered)


def test_deleting_is_heard_of_in_every_tier(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers()
    hearing = Hearing(tiered)
    put(tiered, 0, 3)
    eventually(hearing, tiered)
    tiered.namespace("a").delete(Chain(FINGERPRINT, CHAIN.keys[1:3]))
    assert hearing.hear() == {"cpu": {CHAIN.keys[0]}, "disk": {CHAIN.keys[0]}}


def test_a_time_to_live_that_ends_is_heard_of(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers()
    hearing = Hearing(tiered)
    put(tiered, 0, 2, ttl=0.2)
    put(tiered, 2, 3)
    eventually(hearing, tiered)
    time.sleep(0.3)
    eventually(hearing, tiered)
    assert hearing.hear() == {"cpu": {CHAIN.keys[2]}, "disk": {CHAIN.keys[2]}}


def test_what_leaves_memory_and_what_leaves_the_disk_is_heard_of(
    open_tiers: Callable[..., TieredStore], tmp_path: Path
) -> None:
    spec = small_spec(block_tokens=512)
    chain, blocks = random_prompt(spec, 24)
    disk = {"name": "disk", "path": str(tmp_path), "capacity": "2MiB"}
    tiered = open_tiers([{"name": "cpu", "capacity": "1MiB"}, disk], {"write": "eviction"})
    hearing = Hearing(tiered)
    hearing.hear()
    for number, block in enumerate(blocks):
        put_blocks(tiered.namespace("a"), chain.fingerprint, [block])
        assert hearing.hear() == truth(tiered, chain.keys), number
    there = truth(tiered, chain.keys)
    assert len(there["cpu"]) < 24 and len(there["disk"]) < 24 - len(there["cpu"])


def test_of_redis_it_is_heard_what_it_acknowledged(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store(redis="embedded")
    hearing = Hearing(tiered)
    hearing.hear()
    put(tiered, 0, 3)
    assert tiered.settle()
    assert hearing.hear() == {"cpu": set(CHAIN.keys[:3]), "redis": set(CHAIN.keys[:3])}
    late = Hearing(tiered)
    assert late.hear() == hearing.hear() and late.snapshots == 1
    tiered.namespace("a").delete(Chain(FINGERPRINT, CHAIN.keys[:1]))
    assert hearing.hear() == {"cpu": set(CHAIN.keys[1:3]), "redis": set(CHAIN.keys[1:3])}
    tiered.namespace("a").clear("redis")
    assert hearing.hear() == {"cpu": set(CHAIN.keys[1:3])}


def test_what_the_disk_passes_down_is_heard_of_there(open_tiers: Callable[..., TieredStore], tmp_path: Path) -> None:
    spec = small_spec(block_tokens=512)
    chain, blocks = random_prompt(spec, 16)
    tiers = [
        {"name": "cpu", "capacity": "1MiB"},
        {"name": "disk", "path": str(tmp_path), "capacity": "1MiB"},
        {"name": "redis"},
    ]
    tiered = open_tiers(tiers, {"write": "eviction"})
    hearing = Hearing(tiered)
    hearing.hear()
    put_blocks(tiered.namespace("a"), chain.fingerprint, blocks)
    heard = hearing.hear()
    assert heard == truth(tiered, chain.keys) and heard["redis"]


def test_a_restart_is_another_epoch_and_the_disk_is_in_its_snapshot(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers()
    put(tiered, 0, 3)
    hearing = Hearing(tiered)
    hearing.hear()
    assert tiered.settle()
    tiered.close()
    again = tiers()
    late = Hearing(again, hearing.follower.epoch, hearing.follower.sequence)
    assert late.hear() == {"disk": set(CHAIN.keys[:3])} == truth(again) and late.snapshots == 1
    assert late.follower.epoch != hearing.follower.epoch


def test_whoever_comes_back_goes_on_where_it_was(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    hearing = Hearing(tiered)
    put(tiered, 0, 2)
    hearing.hear()
    put(tiered, 2, 4)
    later = Hearing(tiered, hearing.follower.epoch, hearing.follower.sequence)
    assert later.hear() == {"cpu": set(CHAIN.keys[2:4])} and not later.snapshots
    assert later.follower.sequence == hearing.follower.sequence + 1
    ahead = Hearing(tiered, hearing.follower.epoch, later.follower.sequence + 1)
    assert ahead.hear() == {"cpu": set(CHAIN.keys[:4])} and ahead.snapshots == 1


def test_whoever_fell_behind_gets_a_snapshot_and_holds_up_nobody(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    tiered.events.log_keys = 8
    hearing = Hearing(tiered)
    put(tiered, 0, 1)
    hearing.hear()
    put(tiered, 1, 5)
    assert hearing.hear() == truth(tiered) and hearing.snapshots == 1
    for _ in range(10):
        put(tiered, 5, 8)
        tiered.namespace("a").delete(Chain(FINGERPRINT, CHAIN.keys[5:8]))
    assert hearing.hear() == truth(tiered) == {"cpu": set(CHAIN.keys[:5])} and hearing.snapshots == 2
    put(tiered, 8, 9)
    assert hearing.hear() == truth(tiered) and hearing.snapshots == 2


def test_a_follower_waits_for_what_happens_and_can_be_ended(open_store: Callable[..., TieredStore]) -> None:
    tiered = open_store()
    hearing = Hearing(tiered)
    hearing.hear()
    timer = threading.Timer(0.1, put, (tiered, 0, 1))
    timer.start()
    heard = hearing.follower.take(SOON)
    assert not isinstance(heard, Snapshot) and [event.keys for event in heard] == [CHAIN.keys[:1]]
    timer.join()
    began = time.monotonic()
    timer = threading.Timer(0.1, hearing.follower.end)
    timer.start()
    assert hearing.follower.take(60.0) == []
    assert time.monotonic() - began < SOON
    timer.join()


def test_neighbours_are_joined_without_changing_what_they_say() -> None:
    events = [
        Event(Change.STORED, "cpu", FINGERPRINT, CHAIN.keys[:3]),
        Event(Change.STORED, "cpu", FINGERPRINT, CHAIN.keys[3:5]),
        Event(Change.STORED, "disk", b"", CHAIN.keys[:1]),
        Event(Change.CLEARED, "disk", b"", ()),
        Event(Change.REMOVED, "cpu", FINGERPRINT, CHAIN.keys[:1]),
        Event(Change.REMOVED, "cpu", FINGERPRINT, CHAIN.keys[1:2]),
    ]
    groups = list(joined(events, 4))
    assert [count for count, _ in groups] == [1, 1, 1, 1, 2]
    assert [(event.change, event.tier, event.keys) for _, event in joined(events, 100)] == [
        (Change.STORED, "cpu", CHAIN.keys[:5]),
        (Change.STORED, "disk", CHAIN.keys[:1]),
        (Change.CLEARED, "disk", ()),
        (Change.REMOVED, "cpu", CHAIN.keys[:2]),
    ]


def test_many_threads_at_once_are_heard_of_as_it_was(tiers: Callable[..., TieredStore]) -> None:
    tiered = tiers(hot_after=1)
    tiered.events.log_keys = 200
    hearing = Hearing(tiered)
    store = tiered.namespace("a")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            chain, blocks = (CHAIN, BLOCKS) if number % 2 else (OTHERS, OTHER_BLOCKS)
            for step in range(25):
                cut = 1 + (step * 5 + number) % 12
                put_blocks(store, chain.fingerprint, blocks[:cut])
                with store.read(Chain(chain.fingerprint, chain.keys[:3])) as reading:
                    list(reading)
                if step % 3 == number % 3:
                    store.delete(Chain(chain.fingerprint, chain.keys[cut // 2 : cut]))
                if step % 11 == 7:
                    store.clear(["disk", "cpu", ""][number % 3])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        hearing.hear()
        time.sleep(0.005)
    assert not failures
    eventually(hearing, tiered)
