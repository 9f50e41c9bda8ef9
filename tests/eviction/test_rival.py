"""What LRU would hold is known without an LRU, and it is never far ahead of `prefix`."""

from collections.abc import Container, Hashable, Sequence
from random import Random

import pytest

from cachestore.eviction.base import Order
from cachestore.eviction.lru import Lru
from cachestore.eviction.prefix import Prefix
from cachestore.eviction.waiting import Moment, Waiting

Name = tuple[int, int]
Chain = Sequence[Name]


def leading(chain: Chain, there: Container[Hashable]) -> int:
    return next((at for at, name in enumerate(chain) if name not in there), len(chain))


class Tier:
    """So many blocks in an order."""

    def __init__(self, order: Order, capacity: int) -> None:
        self.order = order
        self.capacity = capacity
        self.there: set[Hashable] = set()
        self.hits = 0

    def serve(self, chain: Chain) -> int:
        """One prompt, and how much of it was there; room for all that is new is made before the first of it comes."""
        found = leading(chain, self.there)
        self.hits += found
        if found:
            self.order.touch(chain[:found])
        for _ in range(len(self.there) + len(chain) - found - self.capacity):
            self.there.remove(self.order.evict(set(chain[:found]).__contains__))
        for at in range(found, len(chain)):
            self.order.insert(chain[at], 1, chain[at - 1] if at else None)
            self.there.add(chain[at])
        return found


@pytest.mark.parametrize("seed", range(3))
def test_of_the_blocks_read_again_as_many_are_held_as_lru_finds(seed: int) -> None:
    random, lru, waiting = Random(seed), Tier(Lru().start(), 100), Waiting(1)
    moments, clock = dict[int, Moment](), 0
    for _ in range(500):
        document = int(random.expovariate(1 / 10))
        length = 5 + document * 7 % 13
        held = waiting.end(moments[document], 0, length) if document in moments else 0
        assert held == lru.serve([(document, at) for at in range(length)])
        moments[document] = waiting.begin(clock, 100, 0, length)
        waiting.drop(100)
        clock += length


def contexts(seed: int, steps: int, together: int, longest: int) -> list[Chain]:
    """So many agents at a time; each step one of them comes with its whole context and a little more."""
    random, alive, begun, chains = Random(seed), list[list[int]](), 0, list[Chain]()
    for _ in range(steps):
        if len(alive) < together:
            alive.append([begun, random.randint(5, 15)])
            begun += 1
        agent = random.choice(alive)
        agent[1] += random.randint(0, 3)
        chains.append([(agent[0], at) for at in range(agent[1])])
        if agent[1] > longest:
            alive.remove(agent)
    return chains


@pytest.mark.parametrize("seed", range(2))
def test_where_a_few_long_prompts_fill_the_tier_little_is_lost_to_lru(seed: int) -> None:
    chains = contexts(seed, 2500, 12, 40)
    prefix, lru = Tier(Prefix().start(), 300), Tier(Lru().start(), 300)
    for chain in chains:
        prefix.serve(chain)
        lru.serve(chain)
    again = sum(map(len, chains)) - len({name for chain in chains for name in chain})
    assert lru.hits - prefix.hits < 0.01 * (again - lru.hits)
