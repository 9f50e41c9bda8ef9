"""Mutations of the pages that workers own: who is shown what, what is checked of a copy, what is given back."""

from tests.mutations.mutation import Mutation

_STORE, _PAGE = "cachestore/store/owned_pages.py", "cachestore/store/owned_page.py"
_SOURCE = "cachestore/service/pages/source.py"
_ABUSE, _NODE = "tests/service/test_page_abuse.py::test_", "tests/service/test_node_pages.py::test_"
_SHOWN = "tests/service/test_shown_pages.py::test_"

PAGES = (
    Mutation(
        "generation of a page not looked at after the copy",
        _SOURCE,
        "        page.check()\n",
        "        pass\n",
        (f"{_NODE}a_page_that_is_reused_while_it_is_copied_is_a_miss_and_counted",),
    ),
    Mutation(
        "checksums of a page's copy not compared",
        _SOURCE,
        "        if sums != header.raw_checksums(chosen):\n",
        "        if False:\n",
        (f"{_NODE}bytes_that_are_not_the_blocks_are_a_miss_and_the_page_is_shown_no_more",),
    ),
    Mutation(
        "pages taken back are shown until their owner says so",
        _STORE,
        "                        and page.current\n",
        "                        and not page.gone\n",
        (f"{_NODE}a_page_that_is_reused_while_it_is_copied_is_a_miss_and_counted",),
    ),
    Mutation(
        "pages shown to who cannot open their device",
        _STORE,
        "                        and page.slab.device == device\n",
        "",
        (f"{_ABUSE}the_namespace_of_pages_is_the_session_s",),
    ),
    Mutation(
        "pages shown to their owner",
        _STORE,
        "                        and page.owner is not besides\n",
        "",
        (f"{_SHOWN}a_worker_is_not_shown_its_own_pages",),
    ),
    Mutation(
        "headers of another namespace registered",
        _PAGE,
        "    if header.namespace != owner.namespace:\n",
        "    if False:\n",
        (f"{_ABUSE}what_cannot_be_a_page_is_refused_whole",),
    ),
    Mutation(
        "pages beyond the end of their slab registered",
        _PAGE,
        "    if page.offset % UNIT or page.offset + nbytes > slab.nbytes:\n",
        "    if page.offset % UNIT:\n",
        (f"{_ABUSE}what_cannot_be_a_page_is_refused_whole",),
    ),
    Mutation(
        "generation words of another size mapped",
        "cachestore/tiers/gpu_words.py",
        "        if os.fstat(descriptor).st_size == nbytes and ",
        "        if ",
        (f"{_ABUSE}memory_that_is_not_what_is_said_is_refused",),
    ),
    Mutation(
        "another value of a key registered beside the first",
        _STORE,
        "        if any(one.sums != page.sums for one in others):\n",
        "        if False:\n",
        (f"{_ABUSE}the_first_value_of_a_key_stays",),
    ),
    Mutation(
        "room of headers never given back",
        _STORE,
        "        space.header_bytes -= len(page.header)\n",
        "",
        (f"{_ABUSE}slabs_and_headers_are_bounded",),
    ),
    Mutation(
        "slabs not shared between namespaces",
        _STORE,
        "            if left < 0 or taken > max(1, FOR_EACH_LEFT * left):\n",
        "            if left < 0:\n",
        ("tests/store/test_owned_pages.py::test_no_namespace_takes_all_slabs_from_the_others",),
    ),
    Mutation(
        "copy of a leased page not spared",
        "cachestore/store/granting.py",
        "    lower = [held for held in holding.blocks if held.entry is None]\n",
        "    lower = [held for held in holding.blocks if held.entry is None and held.page is None]\n",
        ("tests/store/test_cold_leases.py::test_a_leased_page_s_copy_on_disk_stays_until_it_is_needed",),
    ),
    Mutation(
        "pages of a session that ended stay",
        "cachestore/service/shared/pages.py",
        "            self.store.tiered.pages.end(self._owner)\n",
        "            pass\n",
        (f"{_NODE}with_the_owner_its_pages_are_gone",),
    ),
    Mutation(
        "descriptors that come with a message left open",
        "cachestore/service/shared/server.py",
        "                for descriptor in came or ():\n                    os.close(descriptor)\n",
        "                pass\n",
        (f"{_ABUSE}random_messages_harm_nobody_and_leave_no_descriptor", f"{_SHOWN}nothing_of_it_is_left_open"),
    ),
    Mutation(
        "owner not told of what was deleted",
        _STORE,
        "                    page.owner.removed.append(page.generation)\n",
        "",
        (f"{_NODE}deleted_and_cleared_blocks_leave_the_owner_too",),
    ),
    Mutation(
        "missed page counted as often as it is said",
        "cachestore/store/paged.py",
        "            held.page = None\n",
        "",
        (f"{_ABUSE}a_page_that_is_missed_is_counted_once_and_for_its_lease_only",),
    ),
    Mutation(
        "blocks behind the pages not read under their lease",
        "cachestore/store/reading.py",
        "        index = self.first\n",
        "        index = 0\n",
        (f"{_NODE}what_is_in_no_page_comes_from_the_store_under_the_same_lease",),
    ),
)
