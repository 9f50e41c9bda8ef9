"""What every eviction policy promises."""

import gc
from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise, takewhile
from random import Random
from types import FunctionType, ModuleType
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


def fill(order: Order, numbers: Iterable[int]) -> None:
    """Prompts of one block each."""
    for number in numbers:
        order.insert((number, 0), 1)


def history(order: Order, seed: int) -> list[Hashable]:
    """What leaves an order of 100 blocks during some reads and puts of chains that share their beginnings."""
    random, there, left = Random(seed), set[Hashable](), list[Hashable]()
    for _ in range(2000):
        chain = [(random.getrandbits(2) >> (depth > 2), depth) for depth in range(6)]
        names = [tuple(chain[: depth + 1]) for depth in range(len(chain))]
        present = list(takewhile(there.__contains__, names))
        order.touch(present)
        for parent, name in list(pairwise([None, *names]))[len(present) :]:
            if len(order) >= 100:
                left.append(order.evict(set(names).__contains__))
                there.discard(left[-1])
            order.insert(name, 1, parent)
            there.add(name)
    return left


def reach(order: object) -> int:
    """How many objects hang on an order."""
    seen, ahead = set[int](), [order]
    while ahead:
        one = ahead.pop()
        if id(one) not in seen and not isinstance(one, type | ModuleType | FunctionType | str | int | float):
            seen.add(id(one))
            ahead += gc.get_referents(one)
    return len(seen)


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

    @pytest.mark.parametrize("seed", range(5))
    def test_what_it_does_depends_on_what_was_told_it_alone(self, seed: int) -> None:
        assert history(self.policy.start(), seed) == history(self.policy.start(), seed)

    def test_names_may_be_bytes(self) -> None:
        order = self.policy.start()
        names = [bytes([number]) * 16 for number in range(100)]
        for parent, name in pairwise([None, *names]):
            order.insert(name or b"", 1, parent)
        order.touch(names[:10])
        assert emptied(order) == names[::-1]

    def test_the_last_block_of_a_longer_prompt_leaves_before_what_it_shares(self) -> None:
        order = self.policy.start()
        for number in range(200):
            order.insert(("shared", number), 1, ("shared", number - 1) if number else None)
        for prompt in range(20):
            order.touch([("shared", number) for number in range(200)])
            order.insert(("own", prompt), 1, ("shared", 199))
        left = emptied(order)
        assert set(left[:20]) == {("own", prompt) for prompt in range(20)}
        assert left[20:] == [("shared", number) for number in range(199, -1, -1)]

    def test_what_was_removed_or_evicted_may_come_again(self) -> None:
        order = self.policy.start()
        for _ in range(50):
            for number in range(6):
                order.insert(number, 1, number - 1 if number else None)
            order.touch(range(6))
            order.remove(3)
            assert order.evict(nothing_stays) in {5, 2} and len(order) == 4
            for number in range(6):
                order.remove(number)
            assert len(order) == 0 and order.evict(nothing_stays) is None

    def test_a_block_that_is_there_may_be_inserted_again(self) -> None:
        order = self.policy.start()
        for _ in range(3):
            order.insert("a", 1)
            order.insert("b", 1, "a")
        assert len(order) == 2 and emptied(order) == ["b", "a"]

    @pytest.mark.parametrize("chain", ["a", "ab", "abc"])
    def test_parents_in_a_circle_keep_nothing_for_ever(self, chain: str) -> None:
        for first in range(len(chain)):
            order = self.policy.start()
            names = chain[first:] + chain[:first]
            for number, name in enumerate(names):
                order.insert(name, 1, names[number - 1])
            order.touch(names)
            order.touch(names[::-1])
            assert set(emptied(order)) == set(names) and len(order) == 0

    def test_while_all_stay_none_leaves_and_later_all_do(self) -> None:
        order = self.policy.start()
        fill(order, range(300))
        for _ in range(100):
            assert order.evict(lambda name: True) is None
        assert len(order) == 300 and len(emptied(order)) == 300

    def test_a_few_that_stay_are_not_asked_about_for_every_one_that_leaves(self) -> None:
        order, asked = self.policy.start(), 0
        fill(order, range(2000))

        def first_ones_stay(name: Hashable) -> bool:
            nonlocal asked
            asked += 1
            return isinstance(name, tuple) and name[0] < 500

        assert len(emptied(order, first_ones_stay)) == 1500
        assert asked < 25 * 2000

    def test_what_it_remembers_is_bounded(self) -> None:
        order = self.policy.start()
        sizes = []
        for step in range(4):
            for number in range(20_000):
                if len(order) >= 200:
                    order.evict(nothing_stays)
                order.insert((step, number), 1, (step, number - 1) if number % 7 else None)
            sizes.append(reach(order))
        assert sizes[-1] < 1.5 * sizes[0] and sizes[-1] < 50_000

    def test_reads_alone_do_not_make_it_grow(self) -> None:
        order = self.policy.start()
        fill(order, range(50))
        sizes = []
        for _ in range(3):
            for number in range(20_000):
                order.touch([(number % 50, 0)])
            sizes.append(reach(order))
        assert sizes[-1] < 1.5 * sizes[0] and sizes[-1] < 20_000

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
