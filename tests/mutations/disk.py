"""Mutations of the disk tier."""

from tests.mutations.mutation import Mutation

_FILES = "cachestore/tiers/disk_files.py"
_DISK_PUT = "cachestore/tiers/disk_put.py"
_SPOILED = "tests/store/test_spoiled_durable_blocks.py"

DISK = (
    Mutation(
        "one name for all files that are being written",
        _FILES,
        '        name = f"{WRITING}/{self._unique}-{next(self._numbers)}"\n',
        '        name = f"{WRITING}/block"\n',
        (
            "tests/tiers/test_disk.py::TestContract::test_what_was_put_is_got",
            "tests/tiers/test_disk.py::TestContract::test_large_blocks_in_one_batch",
        ),
    ),
    Mutation(
        "file named before it is flushed",
        _DISK_PUT,
        "        for step in (self._write_aside, _flush, self._install):\n",
        "        for step in (self._write_aside, self._install, _flush):\n",
        ("tests/tiers/test_disk_faults.py::test_names_come_after_contents_and_acknowledgements_after_names",),
    ),
    Mutation(
        "durable file not flushed",
        _DISK_PUT,
        "        if item.entry.durable:\n            os.fsync(item.descriptor)\n",
        "        pass\n",
        ("tests/tiers/test_disk_faults.py::test_names_come_after_contents_and_acknowledgements_after_names",),
    ),
    Mutation(
        "name of a durable file not flushed",
        _DISK_PUT,
        "            self.work.files.sync({folder_of(item.entry.namespace, item.entry.key) for item in items})\n",
        "            folder_of(b'', b'')\n",
        ("tests/tiers/test_disk_faults.py::test_names_come_after_contents_and_acknowledgements_after_names",),
    ),
    Mutation(
        "symbolic link followed",
        _FILES,
        "_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "_READ = os.O_RDONLY | os.O_NONBLOCK",
        (
            "tests/tiers/test_disk.py::test_what_is_no_file_of_ours_is_neither_followed_nor_believed",
            "tests/tiers/test_disk.py::test_folders_that_are_links_are_not_entered",
        ),
    ),
    Mutation(
        "file of another length believed",
        _FILES,
        "            if seen.st_size != into.nbytes:\n",
        "            if seen.st_size < into.nbytes:\n",
        ("tests/tiers/test_disk.py::test_a_file_of_another_length_is_truncated",),
    ),
    Mutation(
        "block of another name kept after a restart",
        "cachestore/tiers/disk_entry.py",
        "        if (header.namespace, header.key) != (namespace, key):\n",
        "        if header.key != key:\n",
        ("tests/store/test_teeth.py::test_a_file_in_the_folder_of_another_namespace_is_removed",),
    ),
    Mutation(
        "block served from disk after its end",
        "cachestore/tiers/disk_index.py",
        "                entry if entry and (entry.ends > now or entry.key in held.leased) else None\n",
        "                entry\n",
        ("tests/store/test_teeth.py::test_the_disk_serves_no_block_after_its_end",),
    ),
    Mutation(
        "block evicted from disk while it is read",
        "cachestore/tiers/disk_index.py",
        "        return entry.durable or entry.users > 0 or entry.key in self.leased\n",
        "        return entry.durable or entry.key in self.leased\n",
        ("tests/tiers/test_disk.py::test_a_block_that_is_being_read_does_not_leave",),
    ),
    Mutation(
        "durable block evicted from disk",
        "cachestore/tiers/disk_index.py",
        "        return entry.durable or entry.users > 0 or entry.key in self.leased\n",
        "        return entry.users > 0 or entry.key in self.leased\n",
        ("tests/store/test_durable_blocks.py::test_durable_blocks_stay_on_disk_while_others_leave",),
    ),
    Mutation(
        "leased block removed from disk",
        "cachestore/tiers/disk_index.py",
        "            if not leased and entry.key in held.leased:\n",
        "            if False:\n",
        (
            "tests/store/test_cold_leases.py::test_a_leased_block_on_disk_is_read_after_its_end_and_goes_with_the_lease",
            "tests/tiers/test_disk.py::test_a_lease_holds_that_comes_when_its_block_is_just_about_to_leave",
        ),
    ),
    Mutation(
        "removal refused by a disk that takes nothing more",
        "cachestore/tiers/disk.py",
        "deadline, given_up=True)",
        "deadline, given_up=False)",
        ("tests/tiers/test_disk_faults.py::test_a_disk_that_takes_nothing_more_can_be_emptied",),
    ),
    Mutation(
        "corrupt durable file removed before there is another",
        "cachestore/tiers/disk_work.py",
        '                    elif not (why == "corrupt" and entry.durable) and self.leaving.drop(entry, why, []):\n',
        "                    elif self.leaving.drop(entry, why, []):\n",
        (f"{_SPOILED}::test_a_block_whose_repair_never_began_counts_after_the_restart",),
    ),
    Mutation(
        "corrupt durable file removed at the start",
        "cachestore/tiers/disk_scan.py",
        "                if durable:\n",
        "                if False:\n",
        (f"{_SPOILED}::test_a_durable_block_that_was_cut_while_nobody_looked_counts_at_the_start",),
    ),
    Mutation(
        "leased blocks evicted around for one that they leave no room for",
        "cachestore/tiers/disk_index.py",
        "        return room(entry.nbytes) if entry.durable or entry.key in self._leased[entry.namespace] else 0\n",
        "        return room(entry.nbytes) if entry.durable else 0\n",
        ("tests/tiers/test_disk_leaving.py::test_nothing_leaves_for_a_block_that_leases_leave_no_room_for",),
    ),
    Mutation(
        "file handed down unverified",
        "cachestore/tiers/disk_leaving.py",
        "        _check(entry, data)\n",
        "",
        ("tests/tiers/test_disk_leaving.py::test_what_is_not_the_block_is_not_handed_down",),
    ),
)
