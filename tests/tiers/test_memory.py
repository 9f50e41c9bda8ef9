"""Free space, slabs and the cap of the cpu tier."""

import fcntl
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachestore.errors import ConfigError
from cachestore.seal import CorruptBlock
from cachestore.tiers.cpu import Cpu, CpuTier
from cachestore.tiers.extents import Extents
from cachestore.tiers.slab import UNIT, WORD_BYTES, Slot

MIB = 1 << 20
A, B = b"a" * 32, b"b" * 32


class ExtentsMachine(RuleBasedStateMachine):
    """Extents against a map of which units are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(64 * 16, 64)
        self.taken: dict[int, int] = {}

    @rule(size=st.integers(1, 400))
    def take(self, size: int) -> None:
        offset = self.extents.take(size)
        need = -(-size // 64) * 64
        if offset is None:
            assert all(length < need for length in self.gaps())
            return
        assert offset % 64 == 0 and offset + need <= self.extents.size
        assert all(offset + need <= other or other + length <= offset for other, length in self.taken.items())
        self.taken[offset] = need

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.taken)))
        self.extents.give(offset, self.taken.pop(offset))

    @precondition(lambda self: any(length > 64 for length in self.taken.values()))
    @rule(data=st.data())
    def give_tail(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(o for o, length in self.taken.items() if length > 64)))
        kept = data.draw(st.integers(1, self.taken[offset] // 64 - 1)) * 64
        self.extents.give(offset + kept, self.taken[offset] - kept)
        self.taken[offset] = kept

    def gaps(self) -> list[int]:
        gaps, at = [], 0
        for offset in [*sorted(self.taken), self.extents.size]:
            if offset > at:
                gaps.append(offset - at)
            at = offset + self.taken.get(offset, 0)
        return gaps

    @invariant()
    def what_is_free_is_what_is_not_taken(self) -> None:
        assert self.extents.free == self.extents.size - sum(self.taken.values()) == sum(self.gaps())
        assert self.extents.empty == (not self.taken)

    @invariant()
    def neighbours_are_joined(self) -> None:
        assert [length for _, length in self.extents._free] == self.gaps()


TestExtents = ExtentsMachine.TestCase
TestExtents.settings = settings(max_examples=50, stateful_step_count=40)


class CpuMachine(RuleBasedStateMachine):
    """The cap, the separation of namespaces, and every live slot's own bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.tier = CpuTier(64 * UNIT, 16 * UNIT)
        self.slots: list[tuple[bytes, Slot, int]] = []
        self.count = 0

    @rule(namespace=st.sampled_from([A, B]), nbytes=st.integers(1, 40 * UNIT))
    def take(self, namespace: bytes, nbytes: int) -> None:
        slot = self.tier.take(namespace, nbytes)
        if slot is not None:
            self.count += 1
            slot.bytes[:] = self.count % 251
            self.slots.append((namespace, slot, self.count % 251))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        _, slot, _ = self.slots.pop(data.draw(st.integers(0, len(self.slots) - 1)))
        self.tier.give(slot)
        with pytest.raises(CorruptBlock, match="stale"):
            slot.check()

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def shrink(self, data: st.DataObject) -> None:
        _, slot, _ = data.draw(st.sampled_from(self.slots))
        self.tier.shrink(slot, data.draw(st.integers(1, slot.nbytes)))

    @invariant()
    def the_cap_holds(self) -> None:
        used = sum(-(-(slot.nbytes + WORD_BYTES) // UNIT) * UNIT for _, slot, _ in self.slots)
        assert self.tier.usage().used == used <= self.tier.taken <= self.tier.capacity

    @invariant()
    def slots_are_whole_and_apart(self) -> None:
        for namespace, slot, value in self.slots:
            slot.check()
            assert slot.slab.namespace == namespace and (slot.bytes == value).all()

    def teardown(self) -> None:
        self.tier.close()


TestCpuTier = CpuMachine.TestCase
TestCpuTier.settings = settings(max_examples=40, stateful_step_count=30)


def test_a_slot_is_stale_once_it_is_taken_back() -> None:
    tier = Cpu(MIB).start()
    first = tier.take(A, 1000)
    assert first is not None
    first.check()
    tier.give(first)
    again = tier.take(A, 1000)
    assert again is not None and (again.slab, again.offset) == (first.slab, first.offset)
    with pytest.raises(CorruptBlock, match="stale"):
        first.check()
    again.check()
    tier.close()


def test_what_the_memory_says_does_not_decide_what_is_free() -> None:
    tier = Cpu(MIB).start()
    slot = tier.take(A, 1000)
    assert slot is not None
    slot.slab.words[slot.offset // 8] ^= np.uint64(1)
    with pytest.raises(CorruptBlock, match="stale"):
        slot.check()
    tier.give(slot)
    assert tier.usage().used == 0
    tier.close()


def test_a_slab_never_changes_its_namespace_and_makes_way_for_another() -> None:
    tier = CpuTier(2 * MIB, MIB)
    slots = [tier.take(A, MIB - WORD_BYTES) for _ in range(2)]
    assert all(slots) and tier.take(B, 100) is None and tier.slabs(B) == []
    assert slots[0] is not None
    old, descriptor = slots[0].slab, slots[0].slab.descriptor
    old.bytes[:] = 7
    tier.give(slots[0])
    slot = tier.take(B, 100)
    assert slot is not None and slot.slab is not old and not slot.bytes.any()
    assert tier.slabs(A) != [] and old not in tier.slabs(A) + tier.slabs(B)
    assert (old.bytes[WORD_BYTES:] == 7).all()  # whoever still looks at it sees what was there, never another's
    assert slot.slab.descriptor == descriptor or not os.path.exists(f"/proc/self/fd/{descriptor}")
    tier.close()


def test_the_largest_block_fits_and_one_byte_more_does_not() -> None:
    tier = Cpu(MIB + 100).start()
    assert tier.take(A, tier.largest() + 1) is None
    slot = tier.take(A, tier.largest())
    assert slot is not None and tier.taken <= tier.capacity
    tier.give(slot)
    small = tier.take(B, 1)
    assert small is not None and tier.take(A, tier.largest()) is None
    tier.close()


def test_memory_is_sealed_and_not_inherited() -> None:
    tier = Cpu(MIB).start()
    slot = tier.take(A, 1000)
    assert slot is not None
    descriptor = slot.slab.descriptor
    assert not os.get_inheritable(descriptor)
    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
    sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    assert sealed & fcntl.F_SEAL_SHRINK and sealed & fcntl.F_SEAL_GROW
    for size in (0, 4 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size)
    look = f"import os, sys; sys.exit(os.path.exists('/proc/self/fd/{descriptor}'))"
    assert subprocess.run([sys.executable, "-c", look], close_fds=False, check=False).returncode == 0
    tier.close()
    tier.close()
    with pytest.raises(OSError):
        os.fstat(descriptor)


@pytest.mark.parametrize(("capacity", "slab"), [(0, 0), (UNIT - 1, 0), (-MIB, 0), (MIB, 2 * MIB), (MIB, -1)])
def test_capacities_that_cannot_work_are_refused(capacity: int, slab: int) -> None:
    with pytest.raises(ConfigError, match=r"tiers\.cpu"):
        Cpu(capacity, slab)


@pytest.mark.parametrize(("capacity", "slab"), [(UNIT, UNIT), (MIB, MIB), (16 * MIB, 2 * MIB), (4096 * MIB, 64 * MIB)])
def test_slabs_are_an_eighth_within_bounds(capacity: int, slab: int) -> None:
    assert Cpu(capacity).start().slab_bytes == slab
