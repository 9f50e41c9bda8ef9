"""What every eviction policy promises."""

from random import Random
from typing import ClassVar

import pytest

from cachestore.eviction.base import Eviction


def operations(seed: int) -> list[tuple[str, int]]:
    """What happens to a tier, at random: (insert, touch or remove; block)."""
    random = Random(seed)
    return [(random.choice(["insert", "touch", "remove"]), random.randrange(10)) for _ in range(200)]


class EvictionTests:
    """Subclasses say which policy it is, in the class variable `policy`."""

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
