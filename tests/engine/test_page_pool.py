"""The page pool against a model of it: every page is in one state, and references are what was asked for."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from cachestore.engine.page_pool import PagePool
from cachestore.errors import Overloaded
from cachestore.metrics import total

A, B = b"a" * 32, b"b" * 32


def key(number: int) -> bytes:
    return bytes([number]) * 32


class Pages(RuleBasedStateMachine):
    """Sequences of chained blocks: each prompt is one of few, so that prefixes are shared and given up often."""

    held = Bundle("held")

    @initialize(pages=st.integers(1, 12))
    def start(self, pages: int) -> None:
        self.pool = PagePool(pages)
        self.lists: list[list[int]] = []

    @rule(
        target=held,
        namespace=st.sampled_from((A, B)),
        branch=st.integers(0, 2),
        length=st.integers(1, 5),
        full=st.booleans(),
    )
    def begin(self, namespace: bytes, branch: int, length: int, full: bool) -> object:
        # branches share their first two blocks
        keys = [key(number if number < 2 else 10 * branch + number) for number in range(length)]
        pages = self.pool.lookup(namespace, keys)
        assert len(pages) == len(set(pages))
        try:
            fresh = self.pool.take(length - len(pages))
        except Overloaded:
            assert length - len(pages) > self.pool.available
            self.pool.release(pages)
            return multiple()
        assert not set(fresh) & {page for held in self.lists for page in held}
        named = len(pages)
        pages += fresh
        for index in range(named, length if full else length - 1):
            pages[index] = self.pool.name(pages[index], namespace, keys[index])
        self.lists.append(pages)
        return pages

    @rule(target=held, pages=held)
    def fork(self, pages: list[int]) -> list[int]:
        self.pool.share(pages)
        self.lists.append(list(pages))
        return self.lists[-1]

    @rule(pages=consumes(held))
    def end(self, pages: list[int]) -> None:
        self.pool.release(pages)
        self.lists = [held for held in self.lists if held is not pages]

    @rule(namespace=st.sampled_from((A, B, None)))
    def forget(self, namespace: bytes | None) -> None:
        self.pool.forget(namespace)
        assert namespace is None or self.pool.match(namespace, [key(0)]) == 0

    @invariant()
    def adds_up(self) -> None:
        pool = self.pool
        assert pool.free + pool.cached + pool.referenced == pool.pages
        counts = Counter(page for held in self.lists for page in held)
        assert all(pool.references(page) == counts[page] for page in range(pool.pages))
        assert pool.referenced == len(counts)


Pages.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPages = Pages.TestCase


def test_a_prefix_is_found_in_its_namespace_only() -> None:
    pool = PagePool(4)
    pages = pool.take(2)
    for index, page in enumerate(pages):
        pool.name(page, A, key(index))
    pool.release(pages)
    assert (pool.free, pool.cached, pool.referenced) == (2, 2, 0)
    assert pool.match(B, [key(0)]) == 0
    assert pool.lookup(A, [key(0), key(1), key(2)]) == pages


def test_later_blocks_leave_first_and_the_longest_unused() -> None:
    pool = PagePool(4)
    old, new = pool.take(2), pool.take(2)
    for index, page in enumerate(old + new):
        pool.name(page, A, key(index))
    pool.release(old)
    pool.release(new)
    pool.take(1)
    assert [pool.match(A, [key(number)]) for number in range(4)] == [1, 0, 1, 1]
    assert total(list(pool.counters.figures()), "pages_evicted") == 1


def test_the_first_page_of_a_block_stays() -> None:
    pool = PagePool(2)
    first, second = pool.take(2)
    assert pool.name(first, A, key(0)) == first
    assert pool.name(second, A, key(0)) == first
    assert (pool.references(first), pool.free) == (2, 1)


def test_what_does_not_fit_takes_nothing() -> None:
    pool = PagePool(3)
    pool.take(1)
    with pytest.raises(Overloaded, match="3 pages are wanted, 2 of 3"):
        pool.take(3)
    assert pool.available == 2
