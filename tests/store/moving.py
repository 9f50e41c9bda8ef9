"""Small blocks that are put, sent below memory, and read from there."""

from threading import Event

from cachestore.block import Block
from cachestore.hashing import Chain
from cachestore.store.base import Store, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt
from tests.store.small_blocks import SPEC


def stored(store: Store, count: int, seed: int = 1) -> tuple[Chain, list[Block]]:
    keys, blocks = random_prompt(SPEC, count, seed)
    assert {answer.status for answer in put_blocks(store, keys.fingerprint, blocks)} == {"stored"}
    return keys, blocks


def cold(tiered: TieredStore, store: Store, count: int) -> tuple[Chain, list[Block]]:
    """Blocks that only Redis has."""
    keys, blocks = stored(store, count)
    assert tiered.settle() and store.clear("cpu") == count
    assert tiers(store, keys) == [(count, "redis")]
    return keys, blocks


def tiers(store: Store, keys: Chain) -> list[tuple[int, str]]:
    return [(run.blocks, run.tier) for run in store.lookup(keys).runs]


def read(tiered: TieredStore, store: Store, keys: Chain) -> list[Block]:
    """What a read gives, and whatever it began is over."""
    with store.read(keys) as reading:
        blocks = [block for block, _ in reading]
    assert tiered.settle()
    return blocks


def held_up(tiered: TieredStore) -> Event:
    """Keeps the mover busy until the event is set."""
    goes_on = Event()
    assert tiered.mover.submit(lambda: bool(goes_on.wait(10)) and None) is not None
    return goes_on
