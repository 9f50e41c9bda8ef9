"""Mutations of what is put and what is promised of it: planes, commits, durability, repairs."""

from tests.mutations.mutation import Mutation

_PUT = "cachestore/store/put.py"
_COMMITTING = "cachestore/store/committing.py"
_REMOTE_PUT = "cachestore/service/remote_put.py"

PUTS = (
    Mutation(
        "block published before all of it is written",
        "cachestore/store/laying.py",
        "        return not self.failed and not self.arriving and len(self.written) == len(self.layout.planes)\n",
        "        return not self.failed\n",
        ("tests/store/test_local_store.py::TestMemoryOnly::test_an_incomplete_block_fails_alone",),
    ),
    Mutation(
        "table of a block taken as that of another that is alike",
        "cachestore/store/together.py",
        "            if holds and block.lent:\n",
        "            if True:\n",
        ("tests/store/test_provisional.py::test_a_table_that_is_not_sound_fails_its_block_alone",),
    ),
    Mutation(
        "plane taken whose checksum does not hold",
        _PUT,
        "            open_block.failed |= not holds(each, stored)\n",
        "",
        ("tests/store/test_teeth.py::test_a_plane_that_changed_on_its_way_fails_its_block",),
    ),
    Mutation(
        "coded plane told as laid in shared memory whose checksum does not hold",
        "cachestore/service/shared/sink.py",
        "                if holds(each, laying.append(number, each)):\n",
        "                if laying.append(number, each) is not None:\n",
        (
            "tests/service/test_shared.py::TestShared::test_coded_planes_that_changed_on_their_way_fail_their_block_alone",
        ),
    ),
    Mutation(
        "late writer into memory that was given back: raw planes",
        _PUT,
        "                self._check_open()\n                open_block.append_run(run, data)\n",
        "                open_block.append_run(run, data)\n",
        ("tests/store/test_teeth.py::test_a_writer_that_an_abort_overtook_writes_nothing",),
    ),
    Mutation(
        "late writer into memory that was given back: coded planes",
        _PUT,
        "            self._check_open()\n            return open_block.append(plane, encoded)\n",
        "            return open_block.append(plane, encoded)\n",
        ("tests/store/test_teeth.py::test_a_writer_that_an_abort_overtook_writes_nothing",),
    ),
    Mutation(
        "durable acknowledged although no tier has it",
        _COMMITTING,
        "        if self.durable and not entry.durable:\n",
        "        if False:\n",
        ("tests/store/test_durable_blocks.py::test_what_no_tier_could_keep_is_not_stored",),
    ),
    Mutation(
        "durable put taken for done by its client although what was there is not durable",
        _REMOTE_PUT,
        "        if self._durable:\n",
        "        if False:\n",
        ("tests/store/test_durable_on_redis.py::test_what_is_there_and_cannot_be_made_durable_fails_the_put",),
    ),
    Mutation(
        "lease of a durable put that failed at its client kept",
        _REMOTE_PUT,
        "        ttl = 0.0 if self._durable and unmet(self._answers, asked) else lease\n",
        "        ttl = lease\n",
        ("tests/store/test_durable_on_redis.py::test_what_is_there_and_cannot_be_made_durable_fails_the_put",),
    ),
    Mutation(
        "withdrawn block acknowledged as durable",
        "cachestore/store/durability.py",
        "                entry.durable |= tier.name in entry.cold and not entry.withdrawn\n",
        "                entry.durable |= tier.name in entry.cold\n",
        ("tests/store/test_what_a_put_leaves.py::test_a_withdrawn_block_is_not_durable_by_the_copy_it_has_still",),
    ),
    Mutation(
        "durable quota refused by what Redis has lost",
        "cachestore/store/promises.py",
        "            tier.recount(namespace, deadline)\n",
        "            pass\n",
        ("tests/store/test_quotas.py::test_what_others_removed_from_redis_makes_room_there",),
    ),
    Mutation(
        "block made durable again beyond the quota",
        "cachestore/store/repairing.py",
        "        with charged(tiered, name.namespace, [(name.key, data)], deadline):\n",
        "        if True:\n",
        ("tests/store/test_lost_durable_blocks.py::test_what_is_made_again_is_within_the_quota",),
    ),
    Mutation(
        "repair of a lost durable block given up for the removal of another",
        "cachestore/store/repairing.py",
        "        for key in pending if keys is None else pending.keys() & keys:\n",
        "        for key in pending:\n",
        ("tests/store/test_lost_durable_blocks.py::test_a_removal_of_other_blocks_is_none_of_these",),
    ),
    Mutation(
        "lost durable block made again though it was removed meanwhile",
        "cachestore/store/repairing.py",
        '                spoiled.removed |= tier in ("", spoiled.tier.name)\n',
        "                pass\n",
        ("tests/store/test_lost_durable_blocks.py::test_what_is_removed_while_it_is_made_again_stays_removed",),
    ),
    Mutation(
        "error for a commit that is stored and gets no lease",
        _PUT,
        "            with suppress(Overloaded):\n",
        "            if True:\n",
        ("tests/store/test_lease_of_a_commit.py::test_a_commit_whose_lease_is_refused_is_stored_and_written_down",),
    ),
    Mutation(
        "durable bytes counted twice while they are committed",
        "cachestore/store/promises.py",
        "            held = sum(_not_kept(keeping, namespace, promised).values())\n",
        "            held = sum(promised.values())\n",
        ("tests/store/test_what_a_put_leaves.py::test_durable_bytes_count_once_while_they_are_committed",),
    ),
    Mutation(
        "promised durable bytes not given back",
        "cachestore/store/open_puts.py",
        "                promised.remove(key, put.promised.pop(key))\n",
        "                put.promised.pop(key)\n",
        ("tests/store/test_what_a_put_leaves.py::test_durable_bytes_count_once_from_the_commit_on",),
    ),
    Mutation(
        "durable put taken where nothing is durable",
        "cachestore/store/durability.py",
        "    return [tier for tier in tiered.cold if tier.durable]\n",
        "    return list(tiered.cold)\n",
        ("tests/store/test_durable_blocks.py::test_without_a_tier_that_keeps_blocks_it_is_refused",),
    ),
    Mutation(
        "lease of a commit forgotten",
        _PUT,
        "        return granted\n",
        "        return None\n",
        ("tests/store/test_local_store.py::TestMemoryOnly::test_a_commit_may_open_a_lease_on_what_is_there",),
    ),
)
