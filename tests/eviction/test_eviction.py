"""Every policy keeps the contract of an order; each has an order of its own."""

from cachestore.eviction import EVICTIONS
from cachestore.eviction.lru import Lru
from cachestore.testing import EvictionTests
from cachestore.testing.evictions import emptied


class TestLru(EvictionTests):
    policy = Lru()

    def test_the_one_not_used_for_longest_leaves_first(self) -> None:
        order = self.policy.start()
        for name in "abc":
            order.insert(name, 1)
        order.touch(["a"])
        assert emptied(order) == ["b", "c", "a"]

    def test_of_two_chains_the_older_one_leaves_from_its_end(self) -> None:
        order = self.policy.start()
        for name, parent in (("a1", None), ("a2", "a1"), ("b1", None), ("b2", "b1")):
            order.insert(name, 1, parent)
        order.touch(["a1", "a2"])
        assert emptied(order) == ["b2", "b1", "a2", "a1"]


def test_names() -> None:
    assert EVICTIONS.load("lru") is Lru
