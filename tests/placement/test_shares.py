"""Who gave more than its share lately."""

from random import Random

import pytest

from cachestore.placement.shares import Shares

NODES = ("a", "b", "c", "d")


def test_who_gives_as_much_as_others_is_not_over_and_who_gives_more_is() -> None:
    shares = Shares(most=1.5)
    for node in NODES:
        shares.gave(node, 100, 0.0)
        # a quarter, a half, then all of those who share have given their part
        assert shares.over(node, 4, 0.0) == (node in "ab")
    shares.gave("b", 100, 1.0)
    assert [node for node in NODES if shares.over(node, 4, 1.0)] == ["b"]
    # of more nodes, all of which gave nothing, the mean is less
    assert all(shares.over(node, 10, 1.0) for node in NODES)


def test_nobody_is_over_before_anything_was_given_nor_for_what_is_to_spare() -> None:
    shares = Shares(most=1.0, spare=10)
    assert not shares.over("a", 2, 0.0)
    shares.gave("a", 20, 0.0)
    assert not shares.over("a", 2, 0.0)
    shares.gave("a", 1, 0.0)
    assert shares.over("a", 2, 0.0)


def test_what_was_given_long_ago_fades_beside_what_is_given_now() -> None:
    shares = Shares(most=1.2, memory=10)
    shares.gave("a", 100, 0.0)
    for second in range(40):
        shares.gave("b", 3, float(second))
    assert not shares.over("a", 2, 40.0) and shares.over("b", 2, 40.0)
    # and without anything new it is less than what is to spare one day
    shares = Shares(most=1.0, memory=10, spare=10)
    shares.gave("a", 100, 0.0)
    assert shares.over("a", 2, 10.0) and not shares.over("a", 2, 30.0)


@pytest.mark.parametrize("memory", [1.0, 100.0])
def test_amounts_are_the_same_after_years_as_if_each_were_faded_by_itself(memory: float) -> None:
    random, shares, now = Random(0), Shares(most=1.3, memory=memory, spare=2), 0.0
    given: list[tuple[str, float, float]] = []
    for _ in range(400):
        now += random.expovariate(1 / 3) * (1000 if random.random() < 0.02 else 1)
        node, amount = random.choice(NODES), random.uniform(0, 30)
        shares.gave(node, amount, now)
        given.append((node, amount, now))
        left = {name: 0.0 for name in NODES}
        for name, much, at in given:
            left[name] += much * 2.718281828459045 ** ((at - now) / memory)
        limit = 1.3 * sum(left.values()) / 4 + 2
        for name in NODES:
            if abs(left[name] - limit) > 1e-6:
                assert shares.over(name, 4, now) == (left[name] > limit)
