"""Events are kept for as long as somebody follows them, and a little more: nobody is told less than what happened."""

import time
from collections.abc import Callable, Iterator

import pytest

from cachestore.codecs import create
from cachestore.eviction.lru import Lru
from cachestore.store.base import put_blocks
from cachestore.store.following import Follower, Snapshot
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec
from cachestore.tiers.cpu import Cpu

CHAIN, BLOCKS = random_prompt(small_spec(), 8)
KEPT = 0.2


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as store:
        yield store


def followed(tiered: TieredStore, name: str, epoch: int = 0, sequence: int = 0) -> Follower:
    """Somebody who follows this namespace from there on."""
    return Follower(tiered.events, tiered.namespace(name).namespace, epoch, sequence)


def test_events_that_nobody_follows_any_more_are_not_kept(
    tiered: TieredStore, eventually: Callable[[Callable[[], object]], None]
) -> None:
    tiered.events.kept = KEPT
    names = [f"tenant-{number}" for number in range(20)]
    for name in names:
        followed(tiered, name).take(0.0)
    here = followed(tiered, "here")
    eventually(lambda: here.take(0.01) is not None and len(tiered.events) == 1)
    for name in names:
        put_blocks(tiered.namespace(name), CHAIN.fingerprint, BLOCKS[:1])
    assert len(tiered.events) == 1


def test_what_is_said_lets_go_of_it_too(
    tiered: TieredStore, eventually: Callable[[Callable[[], object]], None]
) -> None:
    tiered.events.kept = KEPT
    followed(tiered, "a").take(0.0)
    store = tiered.namespace("a")

    def nothing_kept() -> bool:
        put_blocks(store, CHAIN.fingerprint, BLOCKS)
        store.delete(CHAIN)
        return len(tiered.events) == 0

    eventually(nothing_kept)


def test_whoever_comes_back_too_late_begins_anew(tiered: TieredStore) -> None:
    """Its place is none of the log that others began meanwhile, however much that has grown."""
    store = tiered.namespace("a")
    first = followed(tiered, "a")
    assert isinstance(first.take(0.0), Snapshot)
    for count in range(1, 5):
        put_blocks(store, CHAIN.fingerprint, BLOCKS[:count])
    assert isinstance(heard := first.take(0.0), list) and len(heard) == first.sequence == 4
    back_soon = followed(tiered, "a", first.epoch, first.sequence)
    assert back_soon.take(0.0) == []
    tiered.events.kept = KEPT
    time.sleep(2 * KEPT)
    assert isinstance(followed(tiered, "a").take(0.0), Snapshot)
    for count in range(4, 9):
        for late in (followed(tiered, "a", first.epoch, first.sequence), followed(tiered, "a", first.epoch, 2)):
            heard = late.take(0.0)
            assert isinstance(heard, Snapshot)
            assert sum(len(keys) for _, _, keys in heard.contents) == count
        put_blocks(store, CHAIN.fingerprint, BLOCKS[: count + 1])
    tiered.events.kept = 60.0
    # nor does it miss what came while it did not ask, without having left
    heard = back_soon.take(0.0)
    assert isinstance(heard, Snapshot) and sum(len(keys) for _, _, keys in heard.contents) == 8
    assert back_soon.take(0.0) == []
