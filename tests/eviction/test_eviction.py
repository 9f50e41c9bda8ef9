"""Every policy keeps the contract of an order; each has an order of its own, and what it is for is shown."""

from collections.abc import Iterable, Iterator, Sequence
from random import Random

import pytest

from cachestore.config import build_named
from cachestore.errors import ConfigError
from cachestore.eviction import EVICTIONS
from cachestore.eviction.base import Eviction, Order
from cachestore.eviction.lfu import Lfu
from cachestore.eviction.lru import Lru
from cachestore.eviction.prefix import Prefix
from cachestore.eviction.s3fifo import S3Fifo
from cachestore.eviction.sketch import Sketch
from cachestore.eviction.slru import Slru
from cachestore.testing import EvictionTests
from cachestore.testing.evictions import emptied, nothing_stays

Chain = Sequence[object]


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

    def test_a_new_child_keeps_all_above_it(self) -> None:
        order = self.policy.start()
        for name, parent in (("a1", None), ("a2", "a1"), ("b1", None), ("a3", "a2")):
            order.insert(name, 1, parent)
        assert emptied(order) == ["b1", "a3", "a2", "a1"]


class TestSlru(EvictionTests):
    policy = Slru()

    def test_what_was_read_outlives_what_was_not(self) -> None:
        order = self.policy.start()
        for name in "abcde":
            order.insert(name, 1)
        order.touch(["a"])
        order.touch(["b"])
        assert emptied(order) == ["c", "d", "e", "a", "b"]

    def test_no_more_than_its_share_is_protected(self) -> None:
        order = Slru(protected=0.5).start()
        for name in "abcd":
            order.insert(name, 1)
        for name in "abc":
            order.touch([name])
        assert emptied(order) == ["d", "a", "b", "c"]


class TestS3Fifo(EvictionTests):
    policy = S3Fifo()

    def test_a_block_that_came_back_outlives_new_ones(self) -> None:
        order = self.policy.start()
        for name in "abcdefghij":
            order.insert(name, 1)
        assert order.evict(nothing_stays) == "a"
        order.insert("a", 1)
        assert emptied(order)[-1] == "a"

    def test_two_reads_save_a_block_from_the_small_queue(self) -> None:
        order = self.policy.start()
        for name in "abcde":
            order.insert(name, 1)
        for name in "abb":
            order.touch([name])
        assert emptied(order) == ["a", "c", "d", "e", "b"]


class TestLfu(EvictionTests):
    policy = Lfu()

    def test_a_new_block_does_not_displace_one_used_more_often(self) -> None:
        order = self.policy.start()
        for number in range(100):
            order.insert(number, 1)
            order.touch([number])
        for number in range(100, 200):
            assert order.evict(nothing_stays) in {number - 1, 99}
            order.insert(number, 1)

    def test_one_that_was_asked_for_more_often_does(self) -> None:
        order = self.policy.start()
        for number in range(100):
            order.insert(number, 1)
        left = set()
        for _ in range(20):
            order.insert("hot", 1)
            left.add(order.evict(nothing_stays))
            if "hot" in left:
                left.discard("hot")
            else:
                break
        assert left and left <= set(range(100))


class TestPrefix(EvictionTests):
    policy = Prefix()

    def test_before_it_knows_anything_it_is_lru(self) -> None:
        order = self.policy.start()
        for name, parent in (("a1", None), ("a2", "a1"), ("b1", None), ("b2", "b1")):
            order.insert(name, 1, parent)
        order.touch(["a1", "a2"])
        assert emptied(order) == ["b2", "b1", "a2", "a1"]


def replayed(policy: Eviction, capacity: int, chains: Iterable[Chain]) -> float:
    """The share of blocks found, where a prompt's own blocks stay while it is served."""
    order: Order = policy.start()
    there: set[object] = set()
    found = asked = 0
    for chain in chains:
        names = [tuple(chain[: at + 1]) for at in range(len(chain))]
        hits = next((at for at, name in enumerate(names) if name not in there), len(names))
        found, asked = found + hits, asked + len(names)
        order.touch(names[:hits])
        for at in range(hits, len(names)):
            if len(there) >= capacity:
                gone = order.evict(set(names).__contains__)
                if gone is None:
                    break
                there.discard(gone)
            order.insert(names[at], 1, names[at - 1] if at else None)
            there.add(names[at])
    return found / asked


def scan() -> Iterator[Chain]:
    """Prompts about 40 documents, and as many that never come again."""
    random = Random(1)
    for number in range(4000):
        yield [("document", random.randrange(40)), 1, 2]
        yield [("once", number), 1, 2]


def loop() -> Iterator[Chain]:
    """120 documents in turn."""
    for number in range(4000):
        yield [number % 120, 1, 2]


def recent() -> Iterator[Chain]:
    """What was used last is used next, the likelier the later it was used."""
    random = Random(2)
    stack: list[int] = []
    for number in range(4000):
        depth = int(random.expovariate(1 / 60))
        document = stack.pop(-1 - depth) if depth < len(stack) else number
        stack.append(document)
        yield [document, 1, 2]


def moving() -> Iterator[Chain]:
    """40 documents among prompts that never come again, then 40 others."""
    random = Random(3)
    for number in range(6000):
        yield [("document", random.randrange(40), number // 3000), 1, 2]
        yield [("once", number), 1, 2]


@pytest.mark.parametrize("policy", [Slru(), S3Fifo(), Lfu(), Prefix()], ids=lambda policy: type(policy).__name__)
def test_prompts_that_never_come_again_do_not_displace_those_that_do(policy: Eviction) -> None:
    assert replayed(policy, 130, scan()) > replayed(Lru(), 130, scan()) + 0.05


def test_a_loop_a_little_larger_than_the_tier_is_kept_in_part() -> None:
    assert replayed(Lru(), 300, loop()) == 0
    assert replayed(Prefix(), 300, loop()) > 0.4


def test_where_lru_is_best_the_learning_costs_next_to_nothing() -> None:
    assert replayed(Prefix(), 200, recent()) > replayed(Lru(), 200, recent()) - 0.01


def test_what_was_popular_does_not_stay_for_ever() -> None:
    assert replayed(Prefix(), 130, moving()) > replayed(Lru(), 130, moving()) + 0.05


def kept(policy: Prefix, chains: Sequence[tuple[Chain, int]], capacity: int) -> list[bool]:
    """Which of some chains, each with the size of its blocks, are there after reads of all of them in turn."""
    order, there = policy.start(), set[object]()
    for step in range(9000):
        chain, nbytes = chains[step * 7 % len(chains)]
        hits = next((at for at, name in enumerate(chain) if name not in there), len(chain))
        order.touch(chain[:hits])
        for at in range(hits, len(chain)):
            if len(there) >= capacity:
                there.discard(order.evict(set(chain).__contains__))
            order.insert(chain[at], nbytes, chain[at - 1] if at else None)
            there.add(chain[at])
    return [chain[-1] in there for chain, _ in chains]


def test_of_blocks_used_alike_the_larger_leave_first() -> None:
    chains = [([number], 400 if number < 40 else 100) for number in range(80)]
    there = kept(Prefix(), chains, 40)
    assert sum(there[:40]) < sum(there[40:]) / 2


def test_of_blocks_used_alike_those_cheap_to_recompute_leave_first() -> None:
    chains = [([(number, at) for at in range(3 if number < 40 else 1)], 100) for number in range(80)]
    costly, alike = kept(Prefix(deep=1), chains, 100), kept(Prefix(deep=10**6), chains, 100)
    assert sum(costly[:40]) > sum(alike[:40]) and sum(costly[40:]) < sum(alike[40:])


@pytest.mark.parametrize(
    "table",
    [
        {"name": "slru", "protected": 1.5},
        {"name": "s3fifo", "small": -1},
        {"name": "lfu", "window": 2},
        {"name": "prefix", "remember": -1},
        {"name": "prefix", "deep": 0},
    ],
)
def test_a_setting_out_of_range_is_named(table: dict[str, object]) -> None:
    name = next(key for key in table if key != "name")
    with pytest.raises(ConfigError, match=f"eviction.{name}|eviction: .*{name}"):
        build_named(EVICTIONS, table, "eviction")


def test_the_sketch_counts_at_least_what_it_saw_and_forgets() -> None:
    sketch = Sketch()
    for _ in range(5):
        sketch.add(b"often" * 4, 1000)
    assert sketch[b"often" * 4] >= 5 and sketch[b"never" * 4] == 0
    for number in range(30_000):
        sketch.add(number.to_bytes(16, "big"), 1000)
    assert sketch[b"often" * 4] < 5


def test_names() -> None:
    assert {name: EVICTIONS.load(name) for name in EVICTIONS.names()} == {
        "lru": Lru,
        "slru": Slru,
        "s3fifo": S3Fifo,
        "lfu": Lfu,
        "prefix": Prefix,
    }
