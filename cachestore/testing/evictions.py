"""What every eviction policy promises."""

from collections.abc import Callable, Hashable
from random import Random
from typing import ClassVar

import pytest

from cachestore.eviction.base import Eviction, Order


def nothing_stays(name: Hashable) -> bool:
    return False


def emptied(order: Order, stays: Callable[[Hashable], bool] = nothing_stays) -> list[Hashable]:
    """Everything that may leave, in the order in which it does."""
    left = []
    while (name := order.evict(stays)) is not None:
        left.append(name)
    return left


class EvictionTests:
    """Subclasses say which policy it is, in the class variable `policy`."""

    policy: ClassVar[Eviction]

    @pytest.mark.parametrize("seed", range(20))
    def test_only_leaves_leave_each_once_and_all_in_the_end(self, seed: int) -> None:
        random, order = Random(seed), self.policy.start()
        there: dict[int, int | None] = {}
        for _ in range(500):
            # a binary tree: a block's parent is half its number
            name = random.randrange(1, 64)
            chain = [name >> shift for shift in range(name.bit_length() - 1, -1, -1)]
            match random.choice(["insert", "touch", "remove", "evict"]):
                case "insert":
                    if name not in there:
                        order.insert(name, 100, name // 2 or None)
                        there[name] = name // 2 or None
                case "touch":
                    order.touch(chain)
                case "remove":
                    order.remove(name)
                    there.pop(name, None)
                case _:
                    held = set(random.sample(range(64), 16))
                    gone = order.evict(held.__contains__)
                    leaves = {leaf for leaf in there if leaf not in there.values()}
                    assert (gone in leaves - held) if leaves - held else gone is None
                    if isinstance(gone, int):
                        del there[gone]
            assert len(order) == len(there)
        assert sorted(emptied(order)) == sorted(there) and len(order) == 0  # type: ignore[type-var]

    def test_what_stays_keeps_its_parents(self) -> None:
        order = self.policy.start()
        for name in range(1, 6):
            order.insert(name, 1, name - 1 or None)
        assert emptied(order, lambda name: name == 4) == [5] and len(order) == 4

    def test_a_parent_learnt_from_a_read_is_kept_for_its_child(self) -> None:
        order = self.policy.start()
        for name in "ab":
            order.insert(name, 1)
        order.touch(["a", "b"])
        assert emptied(order) == ["b", "a"]

    def test_a_parent_may_come_after_its_child(self) -> None:
        order = self.policy.start()
        order.insert("b", 1, "a")
        order.insert("a", 1)
        assert emptied(order) == ["b", "a"]

    def test_orders_are_apart(self) -> None:
        one, other = self.policy.start(), self.policy.start()
        one.insert("a", 1)
        assert other.evict(nothing_stays) is None
