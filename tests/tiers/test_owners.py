"""Memory that belongs to one writer within its namespace: apart from the rest, under the same cap, inherited."""

import random

import pytest

from cachestore.tiers.arena import Arena
from cachestore.tiers.cpu import CpuTier
from cachestore.tiers.extents import Extents
from cachestore.tiers.slab import WORD_BYTES, Slot, footprint

MIB = 1 << 20
A, B = b"a" * 32, b"b" * 32
ONE, TWO = b"1" * 16, b"2" * 16


def take(tier: CpuTier, namespace: bytes, nbytes: int, owner: bytes = b"") -> Slot:
    """A slot that there must be."""
    slot = tier.take(namespace, nbytes, owner)
    assert slot is not None
    return slot


def test_owners_never_share_a_slab() -> None:
    tier = CpuTier(8 * MIB, MIB)
    slots = [take(tier, A, 1000, owner) for owner in (b"", ONE, TWO, ONE)]
    assert [slot.slab.owner for slot in slots] == [b"", ONE, TWO, ONE]
    assert slots[1].slab is slots[3].slab and len({slot.slab.number for slot in slots}) == 3
    assert len(tier.slabs(A)) == 3 and tier.taken == sum(slab.size for slab in tier.slabs(A))
    tier.close()


def test_the_cap_is_for_all_of_them() -> None:
    tier = CpuTier(2 * MIB, MIB)
    first = take(tier, A, MIB - WORD_BYTES, ONE)
    take(tier, A, MIB - WORD_BYTES, TWO)
    assert tier.take(A, 100) is None and tier.take(B, 100) is None and tier.taken == tier.capacity
    tier.give(first)
    # an empty slab makes way, whosever it is
    assert take(tier, B, 100).slab.owner == b""
    tier.close()


def test_what_is_left_of_an_owner_is_its_namespaces() -> None:
    tier = CpuTier(4 * MIB, MIB)
    kept, dropped = take(tier, A, 100_000, ONE), take(tier, A, MIB - WORD_BYTES, ONE)
    kept.bytes[:] = 7
    tier.give(dropped)
    tier.disown(A, ONE)
    assert tier.taken == kept.slab.size and tier.slabs(A) == [kept.slab] and kept.slab.owner == b""
    assert (kept.bytes == 7).all()
    kept.check()
    # its free memory is found, and given back as ever
    beside = take(tier, A, 200_000)
    assert beside.slab is kept.slab
    tier.give(kept)
    tier.give(beside)
    assert take(tier, A, kept.slab.size - WORD_BYTES).slab is kept.slab
    tier.disown(A, ONE)
    tier.disown(B, TWO)
    tier.close()
    tier.disown(A, TWO)


def test_room_is_made_within_an_owners_memory() -> None:
    tier = CpuTier(MIB, MIB)
    slots = [take(tier, A, 64 << 10, ONE) for _ in range(15)]
    for number, slot in enumerate(slots):
        slot.key = bytes([number])
        slot.bytes[:] = number
        if number % 2:
            tier.give(slot)
    need = 128 << 10
    assert tier.take(A, need, ONE) is None
    assert not tier.compaction(A, need, lambda slot: True)
    moves = tier.compaction(A, need, lambda slot: True, ONE)
    assert moves
    for move in moves:
        move.copy()
        tier.give(move.old)
        assert move.new.slab.owner == ONE
    assert take(tier, A, need, ONE).slab.owner == ONE
    tier.close()


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_owners_adds_up(seed: int) -> None:
    chance = random.Random(seed)
    tier = CpuTier(4 * MIB, MIB // 4)
    held: list[Slot] = []
    for _ in range(600):
        owner = chance.choice((b"", ONE, TWO))
        what = chance.random()
        if what < 0.55:
            slot = tier.take(chance.choice((A, B)), chance.randrange(100, 60_000), owner)
            if slot is not None:
                held.append(slot)
        elif what < 0.9 and held:
            tier.give(held.pop(chance.randrange(len(held))))
        elif what >= 0.97:
            tier.disown(chance.choice((A, B)), owner or ONE)
        assert tier.usage().used == sum(footprint(slot.nbytes) for slot in held)
        assert tier.taken == sum(slab.size for name in (A, B) for slab in tier.slabs(name)) <= tier.capacity
        for slot in held:
            slot.check()
    for slot in held:
        tier.give(slot)
    assert tier.usage().used == 0
    for name in (A, B):
        for owner in (ONE, TWO):
            tier.disown(name, owner)
        assert all(not slab.owner for slab in tier.slabs(name))
    tier.close()


def test_free_space_of_two_is_that_of_one() -> None:
    one, other = Extents(64), Extents(64)
    one.give(0, 640)
    other.give(6400, 640)
    other.give(64_000, 64)
    one.absorb(other)
    assert one.free == 640 + 640 + 64 and one.largest == 640
    assert [one.take(640), one.take(640), one.take(64), one.take(1)] == [0, 6400, 64_000, None]
    assert Arena(iter(())).extents.free == 0
