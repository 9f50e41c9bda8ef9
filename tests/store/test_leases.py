"""Leases protect, last as long as was said, run out, and are counted."""

import sys
from collections.abc import Callable

import pytest

from cachestore.errors import InvalidArgument, LeaseExpired, Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.seal import CorruptBlock
from cachestore.store.base import Verdict, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import same
from tests.store.small_blocks import BLOCK, blocks_of, outcome, read

Opener = Callable[..., TieredStore]


def expired(tiered: TieredStore) -> Callable[[], bool]:
    return lambda: not tiered.leases._open


def test_a_lease_that_runs_out_before_its_read_is_over_counts_expired(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    with store.read(keys, lease=store.lease(keys, ttl=0.5)) as reading:
        blocks_read = iter(reading)
        assert same(next(blocks_read).block, blocks[0])
        eventually(expired(tiered))
        assert list(blocks_read) == []
    assert outcome(store) == {"expired": 3} and total(store.stats(), "corruptions") == 0
    assert store.lookup(keys).ready == 3


def test_a_slot_given_to_another_block_is_stale_and_never_wrong(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store(4 * BLOCK)
    store = tiered.namespace("a")
    keys, blocks = blocks_of(4)
    put_blocks(store, keys.fingerprint, blocks)
    reading = store.open(keys, lease=store.lease(keys, ttl=0.5))
    sealed = next(iter(reading))
    sealed.check()
    before = sealed.payload.copy()
    eventually(expired(tiered))
    others, other_blocks = blocks_of(4, seed=9)
    assert {str(a.status) for a in put_blocks(store, others.fingerprint, other_blocks)} == {"stored"}
    assert not (sealed.payload == before).all()
    with pytest.raises(CorruptBlock, match="stale"):
        sealed.check()
    reading.reject(sealed, "stale")
    assert list(reading) == []
    reading.close()
    assert outcome(store) == {"expired": 4} and total(store.stats(), "corruptions") == 0
    assert all(map(same, read(store, others), other_blocks)) and len(read(store, others)) == 4


def test_leased_blocks_outlive_their_deletion_and_then_give_their_room_back(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    with store.read(keys) as reading:
        assert store.clear() == 3 and store.lookup(keys).ready == 0
        assert put_blocks(store, keys.fingerprint, blocks[:1])[0].status == "stored"
        assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
        assert tiered.memory.usage().used == 4 * BLOCK
    assert tiered.memory.usage().used == BLOCK and outcome(store) == {"hits": 3}


def test_a_read_taken_up_again_is_counted_once(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(3)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    for _ in range(3):
        reading = store.open(keys.first(2), lease=lease)
        assert next(iter(reading)).number == 0
        reading.close()
    assert total(store.stats(), "read_blocks") == 2
    for asked in (3, 1):
        store.open(keys.first(asked), lease=lease).close()
        assert total(store.stats(), "read_blocks") == 3
    store.release(lease, [Verdict.USED, Verdict.UNREAD])
    assert outcome(store) == {"hits": 1, "misses": 2}
    with pytest.raises(LeaseExpired):
        store.open(keys, lease=lease)


def test_a_lease_is_for_its_own_chain_and_namespace(open_store: Opener) -> None:
    tiered = open_store()
    store, other = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(2)
    put_blocks(store, keys.fingerprint, blocks)
    lease = store.lease(keys)
    for wrong in (keys.behind(1), Chain(bytes(32), keys.keys), blocks_of(2, seed=5)[0]):
        with pytest.raises(InvalidArgument, match="another chain"):
            store.read(wrong, lease=lease)
    for call in (lambda: other.read(keys, lease=lease), lambda: other.release(lease), lambda: other.renew(lease.id, 5)):
        with pytest.raises(LeaseExpired):
            call()
    store.release(lease)
    assert outcome(store) == {} == outcome(other)


def test_a_renewed_lease_lasts(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    short, renewed = store.lease(keys, ttl=1.0), store.lease(keys, ttl=1.0)
    assert store.renew(renewed.id, 60.0).ttl > 59
    eventually(lambda: len(tiered.leases._open) == 1)
    with pytest.raises(LeaseExpired):
        store.release(short)
    store.release(renewed)
    for ttl in (0.0, -1.0, float("nan"), float("inf"), 601.0):
        with pytest.raises(InvalidArgument):
            store.lease(keys, ttl=ttl)


def test_a_namespace_has_so_many_leases_and_no_more(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    tiered.leases.most = 3
    a, b = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(1)
    put_blocks(a, keys.fingerprint, blocks)
    first, second, _ = [a.lease(keys, ttl=ttl) for ttl in (30, 30, 1.0)]
    with pytest.raises(Overloaded, match="open leases"):
        a.lease(keys)
    with pytest.raises(Overloaded), a.read(keys):
        pass
    b.release(b.lease(keys))
    assert total(a.stats(), "leases_open") == 3
    a.release(first)
    first = a.lease(keys)
    # one that is over makes way
    eventually(lambda: total(a.stats(), "leases_open") == 2)
    for lease in (first, second, a.lease(keys)):
        a.release(lease)


def test_a_namespace_has_leases_on_so_many_blocks_and_no_more(
    open_store: Opener, eventually: Callable[..., None]
) -> None:
    tiered = open_store()
    tiered.leases.most_blocks = 5
    a, b = tiered.namespace("a"), tiered.namespace("b")
    keys, blocks = blocks_of(2)
    for store in (a, b):
        put_blocks(store, keys.fingerprint, blocks)
    first, second = a.lease(keys), a.lease(keys, ttl=1.0)
    with pytest.raises(Overloaded, match="open leases on 4 blocks"):
        a.lease(keys)
    last = a.lease(keys.first(1))
    b.release(b.lease(keys))
    a.release(first)
    first = a.lease(keys)
    # one that is over makes way
    eventually(lambda: total(a.stats(), "leases_open") == 2)
    for lease in (first, last, a.lease(keys)):
        a.release(lease)
    with pytest.raises(LeaseExpired):
        a.release(second)


def test_a_lease_keeps_nothing_of_the_request(open_store: Opener) -> None:
    store = open_store().namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    key = bytes(bytearray(keys.keys[0]))
    before = sys.getrefcount(key)
    lease = store.lease(Chain(keys.fingerprint, (key,)))
    assert lease.blocks == 1 and sys.getrefcount(key) == before
    store.release(lease)


def test_a_lease_ends_when_it_was_last_said_to(open_store: Opener, eventually: Callable[..., None]) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    shorter, longer = store.lease(keys, ttl=60), store.lease(keys, ttl=1.0)
    assert 50 < store.renew(longer.id, 60).ttl <= 60
    assert store.renew(shorter.id, 0.3).ttl <= 0.3
    eventually(lambda: total(store.stats(), "leases_open") == 1, 2)
    assert store.renew(longer.id, 0.2).ttl <= 0.2
    eventually(expired(tiered), 2)


def test_leases_that_are_over_are_not_remembered(open_store: Opener) -> None:
    tiered = open_store()
    store = tiered.namespace("a")
    keys, blocks = blocks_of(1)
    put_blocks(store, keys.fingerprint, blocks)
    kept = store.lease(keys, ttl=600)
    for seconds in range(600, 300, -1):
        store.renew(kept.id, seconds)
        store.release(store.lease(keys, ttl=600))
    assert total(store.stats(), "leases_open") == 1 and len(tiered.leases._ending) < 100
    store.release(kept)
