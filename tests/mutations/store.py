"""Mutations of the store: leases, reads, eviction, movements, removal."""

from tests.mutations.mutation import Mutation

_READING = "cachestore/store/reading.py"
_INDEX = "cachestore/index.py"
_ROOM = "cachestore/store/room.py"
_PROMOTION = "cachestore/store/promotion.py"
_COPYING = "cachestore/store/copying.py"
_REMOVAL = "cachestore/store/removal.py"

STORE = (
    Mutation(
        "block visible while it is written",
        _INDEX,
        "        return space.ready.get(fingerprint, {}) if space is not None else {}\n",
        "        return space.entries if space is not None else {}\n",
        ("tests/store/test_puts.py::test_nothing_is_visible_before_it_is_published",),
    ),
    Mutation(
        "deleted block comes back into memory from what was fetched ahead",
        "cachestore/store/reading.py",
        "        data, self._as_of = self._fetched.pop(held.key)\n",
        "        data, self._as_of = self._fetched.pop(held.key)[0], self.tiered.removals(self.holding.namespace)\n",
        ("tests/store/test_between_locks.py::test_what_was_fetched_ahead_and_deleted_then_does_not_come_back",),
    ),
    Mutation(
        "removal that does not wait for copies under way",
        _REMOVAL,
        "    await_copies(tiered, [*entries, *left], deadline)\n",
        "",
        ("tests/store/test_removed_then_killed.py::test_a_copy_that_was_under_way_does_not_come_back",),
    ),
    Mutation(
        "copy of a block that left memory arrives behind its removal",
        _REMOVAL,
        "entry.gone and chosen(entry.name)]",
        "False]",
        ("tests/store/test_what_a_put_leaves.py::test_no_copy_of_a_published_block_arrives_behind_its_removal",),
    ),
    Mutation(
        "copies that could not be taken back not counted",
        _REMOVAL,
        '                    tiered.counters(namespace).add("left_behind", len(keys), tier=tier.name)\n',
        "                    pass\n",
        ("tests/store/test_what_a_put_leaves.py::test_copies_that_cannot_be_taken_back_are_counted",),
    ),
    Mutation(
        "corrupt copy in memory stays present",
        _READING,
        '                self.tiered.forget(held.entry, "corrupt")\n',
        "",
        ("tests/store/test_corruption.py::test_a_bit_flipped_in_memory_is_a_miss_and_counted",),
    ),
    Mutation(
        "corrupt copy in a cold tier stays present",
        _READING,
        "                discard(self.tiered, tier, name, self.holding.fingerprint, self.deadline)\n",
        "",
        ("tests/store/test_corruption.py::test_a_spoiled_value_in_redis_is_a_miss_counted_once_and_dropped",),
    ),
    Mutation(
        "corruption not counted",
        _READING,
        '            self.holding.counters.add("corruptions", tier=found_in, reason=reason)\n',
        "",
        ("tests/store/test_corruption.py::test_a_bit_flipped_in_memory_is_a_miss_and_counted",),
    ),
    Mutation(
        "lease not looked at again after the copy",
        "cachestore/store/local_reading.py",
        "            if self.sealed.holding.over:\n                return\n            self._used.add(sealed.number)\n",
        "            self._used.add(sealed.number)\n",
        ("tests/store/test_teeth.py::test_a_lease_that_ends_while_a_block_is_copied_gives_no_hit",),
    ),
    Mutation(
        "lease of another namespace accepted",
        "cachestore/store/leases.py",
        "        return holding if holding is not None and holding.namespace == namespace else None\n",
        "        return holding\n",
        ("tests/store/test_leases.py::test_a_lease_is_for_its_own_chain_and_namespace",),
    ),
    Mutation(
        "lookup goes on behind a gap",
        "cachestore/store/granting.py",
        "    leading = asked if gap is None else asked[: asked.index(gap)]\n",
        "    leading = [key for key in asked if gap is None or key in found or key not in missing]\n",
        ("tests/store/test_local_store.py::TestMemoryOnly::test_the_first_gap_ends_lookup_and_read",),
    ),
    Mutation(
        "read goes on behind a block that cannot be had",
        _READING,
        "            if block is None:\n                return\n",
        "            if block is None:\n                index += 1\n                continue\n",
        ("tests/store/test_teeth.py::test_a_read_ends_at_the_first_block_that_is_corrupt",),
    ),
    Mutation(
        "looking counts as use",
        "cachestore/store/local.py",
        '        counters.add("lookups")\n',
        '        counters.add("lookups")\n        self.tiered.index.touch(self.namespace, chain.keys[:found.ready])\n',
        ("tests/store/test_eviction_and_caps.py::test_the_prompt_not_read_for_longest_leaves_first_from_its_end",),
    ),
    Mutation(
        "leased block evicted",
        _INDEX,
        "entries[key].users > 0 or entries[key].pinned)",
        "entries[key].pinned)",
        (
            "tests/store/test_eviction_and_caps.py::test_a_block_is_refused_when_nothing_may_leave",
            "tests/store/test_reads.py::test_reading_goes_on_while_everything_around_is_evicted",
        ),
    ),
    Mutation(
        "pinned block evicted",
        _INDEX,
        "entries[key].users > 0 or entries[key].pinned)",
        "entries[key].users > 0)",
        ("tests/store/test_teeth.py::test_pinned_blocks_are_not_even_copied_for_others",),
    ),
    Mutation(
        "memory of a removed block given back while it is read",
        _INDEX,
        "        if not entry.users:\n            self._taken_back(entry)\n        self.changed.notify_all()\n",
        "        self._taken_back(entry)\n        self.changed.notify_all()\n",
        ("tests/store/test_leases.py::test_leased_blocks_outlive_their_deletion_and_then_give_their_room_back",),
    ),
    Mutation(
        "quota ignored",
        _INDEX,
        "        return self.held(namespace) + nbytes - self.quota(namespace)\n",
        "        return -1\n",
        ("tests/store/test_eviction_and_caps.py::test_a_namespace_stays_within_its_quota_and_evicts_its_own",),
    ),
    Mutation(
        "block evicted that has children",
        "cachestore/eviction/lru.py",
        "            if name not in inner and not stays(name):\n",
        "            if not stays(name):\n",
        ("tests/eviction/test_eviction.py::TestLru",),
    ),
    Mutation(
        "block evicted that has children, by the policies of queues",
        "cachestore/eviction/queues.py",
        "            if run.blocks[-1] not in self._inner and not stays(run.blocks[-1]):\n",
        "            if not stays(run.blocks[-1]):\n",
        ("tests/eviction/test_eviction.py::TestSlru",),
    ),
    Mutation(
        "dropped block not counted",
        _ROOM,
        '        counters.add("dropped", reason=reason)\n',
        "        pass\n",
        ("tests/store/test_eviction_and_caps.py::test_the_prompt_not_read_for_longest_leaves_first_from_its_end",),
    ),
    Mutation(
        "block that left for its quota counted as left for room",
        _ROOM,
        "            needed = QUOTA if index.over_quota(namespace, nbytes) > 0 else reason\n",
        "            needed = reason\n",
        ("tests/store/test_reasons.py::test_blocks_leave_for_their_namespaces_quota_though_memory_has_room",),
    ),
    Mutation(
        "fetched block not protected by its lease",
        _PROMOTION,
        "                    held.entry = entry\n",
        "                    index.leave(entry)\n",
        ("tests/store/test_cold_reads.py::test_nothing_is_fetched_ahead_for_which_memory_has_no_room",),
    ),
    Mutation(
        "block evicted without a copy below",
        _ROOM,
        "        copy_down(tiered, homeless, deadline, everywhere=False)\n",
        "        pass\n",
        ("tests/store/test_eviction_and_caps.py::test_what_leaves_memory_is_in_redis_and_comes_back_when_it_is_read",),
    ),
    Mutation(
        "deleted block comes back by its promotion",
        _PROMOTION,
        "tiered.index.get(name) is not None or tiered.removals(name.namespace) != as_of:",
        "tiered.index.get(name) is not None:",
        (
            "tests/store/test_deleted_blocks.py::test_a_block_read_from_redis_and_deleted_before_it_is_promoted_stays_away",
        ),
    ),
    Mutation(
        "promoted without a look at its bytes",
        _PROMOTION,
        "sound = slot.bytes[: header.size].tobytes() == header.packed and intact(header, slot.bytes[header.size :])",
        "sound = True",
        (
            "tests/store/test_corruption.py::test_a_spoiled_copy_is_never_promoted_nor_demoted_as_good",
            "tests/store/test_reads.py::test_a_reader_may_write_into_what_it_read_while_that_is_promoted",
        ),
    ),
    Mutation(
        "copy that arrives behind its deletion stays",
        _COPYING,
        "    if stale:\n        keys = [",
        "    if False:\n        keys = [",
        ("tests/store/test_deleted_blocks.py::test_a_copy_that_is_on_its_way_when_its_block_is_deleted_is_taken_back",),
    ),
    Mutation(
        "copy lives longer than its block",
        _COPYING,
        "        ttl = None if ends == math.inf else max(1e-3, ends - time.monotonic())\n",
        "        ttl = None\n",
        ("tests/store/test_time_to_live.py::test_a_block_leaves_memory_and_redis_when_its_time_is_over",),
    ),
    Mutation(
        "blocks whose copies are due forgotten at the end",
        "cachestore/store/tiered.py",
        "        write_due(self, math.inf)\n",
        "",
        ("tests/store/test_movements.py::test_written_back_closing_copies_what_is_due",),
    ),
)
