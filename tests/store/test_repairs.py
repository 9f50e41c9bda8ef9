"""Which of the copies that are to be made again somebody wants gone."""

from cachestore.eviction.lru import Lru
from cachestore.index import Name
from cachestore.store.repairing import Repairs, Spoiled
from cachestore.testing.tiers import KEYS, A, B
from cachestore.tiers.disk import Disk
from cachestore.tiers.redis import Redis

DISK, REDIS = Disk("blocks", 1 << 20).start(Lru()), Redis("redis://localhost").start(Lru())


def test_what_is_removed_is_that_block_in_that_tier_as_long_as_it_is_pending() -> None:
    ours, below, theirs = (
        Spoiled(DISK, Name(A, KEYS[0])),
        Spoiled(REDIS, Name(A, KEYS[0])),
        Spoiled(DISK, Name(B, KEYS[0])),
    )
    other = Spoiled(DISK, Name(A, KEYS[1]))
    repairs = Repairs()
    repairs.add([ours, below, theirs, other])
    repairs.removed(A, KEYS[2:])
    repairs.removed(A, KEYS[:1], "redis")
    assert [each.removed for each in (ours, below, theirs, other)] == [False, True, False, False]
    repairs.removed(A, {KEYS[0]})
    assert [each.removed for each in (ours, below, theirs, other)] == [True, True, False, False]
    repairs.end([other])
    repairs.removed(A, None)
    repairs.removed(B, None)
    assert theirs.removed and not other.removed
