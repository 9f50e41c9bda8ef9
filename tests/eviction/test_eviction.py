"""Every policy keeps the contract of an order; each has an order of its own."""

from random import Random
from typing import ClassVar

import pytest

from cachestore.eviction import EVICTIONS
from cachestore.eviction.base import Eviction
from cachestore.eviction.lru import Lru


def operations(seed: int) -> list[tuple[str, int]]:
    random = Random(seed)
    return [(random.choice(["insert", "touch", "remove"]), random.randrange(10)) for _ in range(200)]


class EvictionTests:
    """What every policy promises. Subclasses say which one it is."""

    policy: ClassVar[Eviction]

    @pytest.mark.parametrize("seed", range(5))
    def test_victims_are_the_blocks_that_are_there_each_once(self, seed: int) -> None:
        order, there = self.policy.start(), set[int]()
        for operation, name in operations(seed):
            match operation:
                case "insert":
                    order.insert(name, 100)
                    there.add(name)
                case "touch":
                    order.touch(name)
                case _:
                    order.remove(name)
                    there.discard(name)
            victims = list(order.victims())
            assert len(victims) == len(there) and set(victims) == there

    def test_asking_changes_nothing(self) -> None:
        order = self.policy.start()
        for name in range(5):
            order.insert(name, 1)
        assert list(order.victims()) == list(order.victims())
        next(order.victims())
        assert len(list(order.victims())) == 5

    def test_orders_are_apart(self) -> None:
        one, other = self.policy.start(), self.policy.start()
        one.insert("a", 1)
        assert list(other.victims()) == []


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
