"""Every policy keeps the contract of an order; each has an order of its own."""

import pytest

from cachestore.eviction import EVICTIONS
from cachestore.eviction.lru import Lru
from cachestore.testing import EvictionTests
from cachestore.testing.evictions import operations


class TestLru(EvictionTests):
    policy = Lru()

    @pytest.mark.parametrize("seed", range(5))
    def test_the_one_not_used_for_longest_leaves_first(self, seed: int) -> None:
        order, model = self.policy.start(), list[int]()
        for operation, name in operations(seed):
            if operation == "insert" or (operation == "touch" and name in model):
                model = [other for other in model if other != name] + [name]
            elif operation == "remove" and name in model:
                model.remove(name)
            getattr(order, operation)(*((name, 1) if operation == "insert" else (name,)))
            assert list(order.victims()) == model


def test_names() -> None:
    assert EVICTIONS.load("lru") is Lru
