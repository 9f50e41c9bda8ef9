"""Slabs that workers register: how the namespaces of a node share them."""

import os
from collections.abc import Callable, Iterator

import pytest

from cachestore.errors import Overloaded
from cachestore.store import owned_pages
from cachestore.store.owned_page import PageOwner
from cachestore.store.owned_pages import OwnedPages
from cachestore.store.owned_slabs import OfferedSlab
from cachestore.tiers.gpu_memory import GRANULE, HostMemory, share_readable
from cachestore.tiers.gpu_words import words_bytes

Register = Callable[[PageOwner, int], bool]


@pytest.fixture
def pages() -> OwnedPages:
    return OwnedPages()


@pytest.fixture
def register(pages: OwnedPages, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Registers so many slabs more with a store that takes 16: whether it does."""
    monkeypatch.setattr(owned_pages, "MOST_SLABS", 16)
    memory, (_, words) = HostMemory().allocate(GRANULE), share_readable(words_bytes(GRANULE))

    def more(owner: PageOwner, count: int) -> bool:
        begun = max(owner.slabs, default=0) + 1
        slabs = [OfferedSlab(begun + number, GRANULE, b"", words, memory.descriptor) for number in range(count)]
        try:
            pages.register(owner, slabs, [])
        except Overloaded as error:
            assert "tiers.gpu.slab" in str(error)
            return False
        return True

    yield more
    os.close(words)
    memory.close()


def test_no_namespace_takes_all_slabs_from_the_others(pages: OwnedPages, register: Register) -> None:
    ours, ours_too, theirs, third, fourth = (pages.begin(name * 32, "cpu") for name in (b"o", b"o", b"t", b"3", b"4"))
    assert register(ours, 8) and not register(ours_too, 5) and register(ours_too, 4)
    assert register(theirs, 3) and not register(theirs, 1) and not register(ours, 1)
    # one each as long as there are any
    assert register(third, 1) and not register(fourth, 1)
    # who has its share by now may register pages in it still
    assert register(ours, 0)
    pages.end(ours)
    assert register(fourth, 6) and not register(fourth, 1)
    for owner in (ours_too, theirs, third, fourth):
        pages.end(owner)
