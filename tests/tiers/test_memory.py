"""Free space, slabs and the cap of the cpu tier."""

import fcntl
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cachestore.errors import ConfigError
from cachestore.seal import CorruptBlock
from cachestore.tiers.cpu import Cpu, CpuTier
from cachestore.tiers.extents import Extents
from cachestore.tiers.slab import UNIT, WORD_BYTES, footprint

MIB = 1 << 20
A, B = b"a" * 32, b"b" * 32


LENGTH = 64 * 16
RANGES = (0, 64 * 32)


class ExtentsMachine(RuleBasedStateMachine):
    """Extents against a map of which units are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.extents = Extents(64)
        # two ranges that do not touch, as two slabs are
        for start in RANGES:
            self.extents.give(start, LENGTH)
        self.taken: dict[int, int] = {}

    @rule(size=st.integers(1, 400))
    def take(self, size: int) -> None:
        offset = self.extents.take(size)
        need = -(-size // 64) * 64
        if offset is None:
            assert all(length < need for length in self.gaps())
            return
        assert offset % 64 == 0 and any(start <= offset and offset + need <= start + LENGTH for start in RANGES)
        # nothing tighter was there
        assert self.gap_at(offset) == min(length for length in self.gaps() if length >= need)
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

    @precondition(lambda self: self.gaps())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        start, length = data.draw(st.sampled_from(self.free()))
        assert self.extents.claim(start) == length
        self.taken[start] = length

    def free(self) -> list[tuple[int, int]]:
        """(start, length) of every gap between what is taken."""
        gaps = []
        for start in RANGES:
            at = start
            for offset in [*sorted(o for o in self.taken if start <= o < start + LENGTH), start + LENGTH]:
                if offset > at:
                    gaps.append((at, offset - at))
                at = offset + self.taken.get(offset, 0)
        return gaps

    def gaps(self) -> list[int]:
        return [length for _, length in self.free()]

    def gap_at(self, offset: int) -> int:
        return dict(self.free())[offset]

    @invariant()
    def what_is_free_is_what_is_not_taken(self) -> None:
        assert self.extents.free == 2 * LENGTH - sum(self.taken.values()) == sum(self.gaps())

    @invariant()
    def neighbours_are_joined(self) -> None:
        ends = {start + length: length for start, length in self.free()}
        assert {end: self.extents.before(end) for end in range(0, RANGES[1] + LENGTH + 1, 64)} == {
            end: ends.get(end, 0) for end in range(0, RANGES[1] + LENGTH + 1, 64)
        }


TestExtents = ExtentsMachine.TestCase
TestExtents.settings = settings(max_examples=50, stateful_step_count=40)


def test_a_slot_is_stale_once_it_is_taken_back() -> None:
    tier = Cpu(MIB).start()
    first = tier.take(A, 1000)
    assert first is not None
    first.check()
    tier.give(first)
    # what another process sees of it
    assert not first.slab.bytes[first.offset : first.offset + WORD_BYTES].any()
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


def test_no_memory_outlives_its_last_view() -> None:
    before = mappings()
    tier = CpuTier(2 * MIB, MIB)
    slot = tier.take(A, 1000)
    assert slot is not None
    slab, view = weakref.ref(slot.slab), slot.bytes
    view[:] = 7
    tier.close()
    del slot
    assert slab() is None and (view == 7).all()
    assert mappings() == before + 1
    del view
    assert mappings() == before


def test_who_is_late_meets_a_closed_tier() -> None:
    tier = Cpu(MIB).start()
    slot, other = tier.take(A, 1000), tier.take(A, 1000)
    assert slot is not None and other is not None
    tier.close()
    tier.shrink(slot, 500)
    slot.bytes[:] = 7
    tier.give(slot)
    tier.give(other)
    assert tier.take(A, 1000) is None and tier.compaction(A, 1000, lambda slot: True) is None
    assert tier.taken == tier.usage().used == 0 and tier.slabs(A) == []


def mappings() -> int:
    """How many memfds of the tier this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:cachestore")


@pytest.mark.parametrize(("capacity", "slab"), [(0, 0), (UNIT - 1, 0), (-MIB, 0), (MIB, 2 * MIB), (MIB, -1)])
def test_capacities_that_cannot_work_are_refused(capacity: int, slab: int) -> None:
    with pytest.raises(ConfigError, match=r"tiers\.cpu"):
        Cpu(capacity, slab)


@pytest.mark.parametrize(
    ("capacity", "slab"),
    [(UNIT, UNIT), (MIB, MIB), (16 * MIB, 2 * MIB), (4096 * MIB, 64 * MIB), (65536 * MIB, 512 * MIB)],
)
def test_slabs_are_an_eighth_within_bounds(capacity: int, slab: int) -> None:
    assert Cpu(capacity).start().slab_bytes == slab


def test_a_tenant_of_one_block_takes_little_from_the_others() -> None:
    tier = Cpu(64 * MIB).start()
    for number in range(100):
        assert tier.take(bytes([number]) * 32, 500 << 10) is not None
    assert tier.taken <= 64 * MIB
    tier.close()


@pytest.mark.parametrize("nbytes", [80 << 10, 500_000, (2 << 20) + 3328, 17 << 20, 40 << 20])
def test_little_is_left_over_beside_blocks_of_one_size(nbytes: int) -> None:
    tier = Cpu(1024 * MIB).start()
    blocks = 0
    while tier.take(A, nbytes) is not None:
        blocks += 1
    # what is left is less than a block in all, and two units at most beside each
    assert blocks >= 1024 * MIB // footprint(nbytes) - 1
    tier.close()


def test_a_block_that_was_coded_leaves_no_hole_behind() -> None:
    tier = CpuTier(8 * MIB, 8 * MIB)
    slots = [tier.take(A, MIB - WORD_BYTES) for _ in range(8)]
    for number, slot in enumerate(slots):
        assert slot is not None
        slot.bytes[: 700 << 10] = number
        before, offset = slot.generation, slot.offset
        tier.shrink(slot, 700 << 10)
        slot.check()
        assert (slot.offset == offset) == (number == 0) == (slot.slab.words[offset // 8] == before)
        assert (slot.bytes == number).all() and slot.nbytes == 700 << 10
        assert number == 0 or slot.generation != before
    # what all of them gave back lies in one piece
    assert tier.take(A, 8 * (300 << 10)) is not None
    tier.close()


def test_without_descriptors_there_is_no_room_and_no_error() -> None:
    script = (
        "import resource; from cachestore.tiers.cpu import Cpu; import os;"
        "tier = Cpu(64 << 20).start(); held = [os.dup(0) for _ in range(3)];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1, max(held) + 1));"
        "assert tier.take(bytes(32), 1000) is None and tier.taken == 0; os.close(held[0]); os.close(held[1]);"
        "assert tier.take(bytes(32), 1000) is not None"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
