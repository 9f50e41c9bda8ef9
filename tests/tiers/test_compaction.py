"""Moving blocks together: nothing is lost, the cap holds, and nearly all memory can be used."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachestore.seal import CorruptBlock
from cachestore.tiers.arena import Move
from cachestore.tiers.cpu import Cpu, CpuTier
from cachestore.tiers.slab import UNIT, WORD_BYTES, Slot, footprint

MIB = 1 << 20
NAMESPACES = [bytes([number]) * 32 for number in range(3)]


class CpuMachine(RuleBasedStateMachine):
    """The cap, the separation of namespaces, and every live slot's own bytes, whatever is taken, given and moved."""

    def __init__(self) -> None:
        super().__init__()
        self.tier = CpuTier(64 * UNIT, 16 * UNIT, 4 * UNIT)
        self.slots: dict[bytes, Slot] = {}
        self.used: set[bytes] = set()
        self.moving: list[Move] = []
        self.count = 0

    def take_one(self, namespace: bytes, nbytes: int) -> bool:
        slot = self.tier.take(namespace, nbytes)
        if slot is None:
            return False
        self.count += 1
        slot.key = self.count.to_bytes(2, "big") * 16
        slot.bytes[:] = self.count % 251
        assert slot.slab.namespace == namespace and slot.nbytes == nbytes
        self.slots[slot.key] = slot
        return True

    @rule(namespace=st.sampled_from(NAMESPACES), nbytes=st.integers(1, 20 * UNIT))
    def take(self, namespace: bytes, nbytes: int) -> None:
        self.take_one(namespace, nbytes)

    def movable(self, slot: Slot) -> bool:
        known = self.slots.get(slot.key) is slot and slot.key not in self.used
        return known and all(slot is not move.old for move in self.moving)

    @precondition(lambda self: not self.moving)
    @rule(namespace=st.sampled_from(NAMESPACES), nbytes=st.integers(1, 20 * UNIT), at_once=st.booleans())
    def compact(self, namespace: bytes, nbytes: int, at_once: bool) -> None:
        if self.take_one(namespace, nbytes):
            return
        before = self.tier.usage()
        moves = self.tier.compaction(namespace, nbytes, self.movable)
        if moves is None:
            assert self.tier.usage() == before
            return
        for move in moves:
            assert self.movable(move.old) and move.new.slab.namespace == move.old.slab.namespace
        self.moving = moves
        if at_once:
            while self.moving:
                self.end_move(True)
            assert self.take_one(namespace, nbytes)

    @precondition(lambda self: self.moving)
    @rule(hand_over=st.booleans())
    def end_move(self, hand_over: bool) -> None:
        move = self.moving.pop()
        # its block may have left meanwhile
        if not move.old.live or not hand_over:
            self.tier.give(move.new)
            return
        move.copy()
        self.slots[move.old.key] = move.new
        self.tier.give(move.old)

    def not_moving(self) -> list[bytes]:
        return [key for key, slot in self.slots.items() if all(slot is not move.old for move in self.moving)]

    @precondition(lambda self: self.not_moving())
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        slot = self.slots.pop(data.draw(st.sampled_from(self.not_moving())))
        self.tier.give(slot)
        with pytest.raises(CorruptBlock, match="stale"):
            slot.check()

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        self.used ^= {data.draw(st.sampled_from(list(self.slots)))}

    @precondition(lambda self: self.not_moving())
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        slot = self.slots[data.draw(st.sampled_from(self.not_moving()))]
        self.tier.shrink(slot, data.draw(st.integers(1, slot.nbytes)))

    @invariant()
    def the_cap_holds(self) -> None:
        held = [*self.slots.values(), *(move.new for move in self.moving)]
        used = sum(footprint(slot.nbytes) for slot in held)
        slabs = [slab for namespace in NAMESPACES for slab in self.tier.slabs(namespace)]
        assert self.tier.usage().used == used <= self.tier.taken <= self.tier.capacity
        assert self.tier.taken == sum(slab.size for slab in slabs)

    @invariant()
    def slots_are_whole_and_apart(self) -> None:
        for key, slot in self.slots.items():
            slot.check()
            assert (slot.bytes == int.from_bytes(key[:2], "big") % 251).all()

    @invariant()
    def generations_are_never_those_of_another(self) -> None:
        words = [int(slot.slab.words[slot.offset // 8]) for slot in self.slots.values()]
        assert len(set(words)) == len(words) and 0 not in words

    def teardown(self) -> None:
        self.tier.close()


TestCpuTier = CpuMachine.TestCase
TestCpuTier.settings = settings(max_examples=40, stateful_step_count=50)


@pytest.mark.slow
class TestCpuTierForLong(CpuMachine.TestCase):
    settings = settings(max_examples=400, stateful_step_count=50)


def named(tier: CpuTier, namespace: bytes, nbytes: int) -> Slot:
    """A slot that somebody has a block in."""
    slot = tier.take(namespace, nbytes)
    assert slot is not None
    slot.key = b"k" * 32
    return slot


def any_size(random: Random) -> int:
    """80 KiB to 8 MiB, as many between 80 and 160 KiB as between 4 and 8 MiB."""
    return int(math.exp(random.uniform(math.log(80 << 10), math.log(8 << 20))))


def fixed(nbytes: int) -> Callable[[Random], int]:
    return lambda random: nbytes


def churned(
    size: Callable[[Random], int], *, compacted: bool = True, coded: bool = False, namespaces: int = 1
) -> float:
    """The median over a random history of: bytes of blocks / capacity, whenever no room could be made for another."""
    random, tier, capacity = Random(1), Cpu(256 * MIB).start(), 256 * MIB
    slots: dict[bytes, Slot] = {}
    payload, shares = 0, []
    for number in range(1500):
        namespace, nbytes = NAMESPACES[random.randrange(namespaces)], size(random)
        while (slot := tier.take(namespace, nbytes)) is None:
            moves = tier.compaction(namespace, nbytes, lambda slot: slot.key in slots) if compacted else None
            if moves is None:
                shares.append(payload / capacity)
                out = slots.pop(random.choice(list(slots)))
                payload -= out.nbytes
                tier.give(out)
            for move in moves or []:
                # what lies in them is for the state machine above to say
                move.new.key = move.old.key
                slots[move.old.key] = move.new
                tier.give(move.old)
        if coded:
            tier.shrink(slot, int(nbytes * random.uniform(0.6, 0.85)))
        slot.key = number.to_bytes(4, "big")
        slots[slot.key] = slot
        payload += slot.nbytes
        assert tier.taken <= capacity
    tier.close()
    return sorted(shares[len(shares) // 3 :])[len(shares) // 3]


@pytest.mark.parametrize("nbytes", [(512 << 10) + 3328, (2 << 20) + 3328, 17 << 20])
def test_blocks_of_one_size_fill_memory_without_a_move(nbytes: int) -> None:
    assert churned(fixed(nbytes), compacted=False) > 0.99


def test_blocks_of_all_sizes_fill_memory() -> None:
    assert churned(any_size) > 0.95 > churned(any_size, compacted=False) + 0.05


def test_coded_blocks_fill_memory() -> None:
    assert churned(fixed(512 << 10), coded=True) > 0.9


def test_tenants_do_not_keep_each_other_from_memory() -> None:
    assert churned(any_size, namespaces=3) > 0.85


def test_a_block_moves_with_its_bytes_and_the_old_place_is_stale() -> None:
    tier = CpuTier(4 * MIB, 4 * MIB)
    slots = [tier.take(NAMESPACES[0], MIB // 2 - WORD_BYTES) for _ in range(8)]
    for number, slot in enumerate(slots):
        assert slot is not None
        slot.bytes[:] = number
        slot.key = bytes([number]) * 32
    for number in (1, 3):
        tier.give(slots[number])  # type: ignore[arg-type]
    assert tier.take(NAMESPACES[0], MIB - WORD_BYTES) is None
    asked: list[bytes] = []

    def movable(slot: Slot) -> bool:
        asked.append(slot.key)
        return slot is not slots[2]

    moves = tier.compaction(NAMESPACES[0], MIB - WORD_BYTES, movable)
    assert moves is not None and len(moves) == 1 and moves[0].old in (slots[0], slots[4])
    old, new = moves[0]
    number = slots.index(old)
    moves[0].copy()
    assert new.key == bytes([number]) * 32 and (new.bytes == number).all() and bytes([2]) * 32 in asked
    new.check()
    old.check()  # readers of the old place may finish
    tier.give(old)
    with pytest.raises(CorruptBlock, match="stale"):
        old.check()
    assert tier.take(NAMESPACES[0], MIB - WORD_BYTES) is not None
    assert np.array_equal(slots[2].bytes, np.full(slots[2].nbytes, 2))  # type: ignore[union-attr]
    tier.close()


def test_a_namespace_gets_a_slab_that_another_can_spare() -> None:
    a, b, _ = NAMESPACES
    tier = CpuTier(4 * MIB, MIB)
    slots = [named(tier, a, MIB // 4 - WORD_BYTES) for _ in range(16)]
    for number in range(0, 16, 3):
        tier.give(slots[number])
    assert tier.take(b, 1000) is None and all(not slab.used == 0 for slab in tier.slabs(a))
    assert tier.compaction(b, 1000, lambda slot: False) is None
    moves = tier.compaction(b, 1000, lambda slot: True)
    assert moves is not None and len(moves) == 2  # the slab with the least in it
    for move in moves:
        tier.give(move.old)
    assert tier.take(b, 1000) is not None and len(tier.slabs(a)) == 3 and tier.taken <= 4 * MIB
    tier.close()


def test_what_is_nobodys_block_stays() -> None:
    a, b, _ = NAMESPACES
    tier = CpuTier(4 * MIB, MIB)
    slots = [named(tier, a, MIB // 2 - WORD_BYTES) for _ in range(8)]
    tier.give(slots[0])
    tier.give(slots[2])
    assert tier.take(b, 1000) is None
    for slot in slots:
        slot.key = b""
    assert tier.compaction(b, 1000, lambda slot: True) is None
    slots[3].key = b"k"
    moves = tier.compaction(b, 1000, lambda slot: True)
    assert moves is not None and [move.old for move in moves] == [slots[3]] and moves[0].new.slab is slots[1].slab
    tier.close()


def test_where_moving_cannot_help_nothing_is_moved() -> None:
    a, b, _ = NAMESPACES
    tier = CpuTier(4 * MIB, MIB)
    assert all(named(tier, a, MIB // 2 - WORD_BYTES) for _ in range(8))
    for namespace in (a, b):
        assert tier.compaction(namespace, 1000, lambda slot: True) is None
    assert tier.usage().used == 4 * MIB
    tier.close()
