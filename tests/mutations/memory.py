"""Mutations of the memory tier."""

from tests.mutations.mutation import Mutation

_ARENA = "cachestore/tiers/arena.py"

MEMORY = (
    Mutation(
        "generation of a slot not zeroed when it is taken back",
        _ARENA,
        "        slab = slot.slab\n        slab.words[slot.offset // 8] = 0\n",
        "        slab = slot.slab\n",
        ("tests/tiers/test_memory.py::test_a_slot_is_stale_once_it_is_taken_back",),
    ),
    Mutation(
        "generation not new when a slot is given out again",
        _ARENA,
        "            slab, generations = self.slabs[number], list(islice(self.generations, len(row)))\n",
        "            slab, generations = self.slabs[number], [1] * len(row)\n",
        ("tests/store/test_teeth.py::test_memory_given_out_again_has_another_generation",),
    ),
    Mutation(
        "generation word not compared",
        "cachestore/tiers/slab.py",
        "        if not self.live or int(self.slab.words[self.offset // 8]) != self.generation:\n",
        "        if not self.live:\n",
        ("tests/store/test_corruption.py::test_a_flipped_generation_word_is_a_miss",),
    ),
)
