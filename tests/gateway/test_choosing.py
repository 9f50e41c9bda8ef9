"""Where requests go, with real stores: to the longest prefix, away from who has too much to do, and to one another."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest

from cachestore.codecs import create
from cachestore.engine.stopping import Stop
from cachestore.eviction.lru import Lru
from cachestore.hashing import fingerprint
from cachestore.metrics import Counters, total
from cachestore.placement.shares import Shares
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.base import put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_blocks, random_tokens, small_spec
from cachestore.tiers.cpu import Cpu
from cachestore.wire import worker_pb2 as wire
from gateway.generating import Generating
from gateway.keys import ANYBODY
from gateway.prefixes import Prefixes
from gateway.prompts import Asked
from gateway.routing.base import Routing
from gateway.routing.prefix_load import PrefixLoad
from gateway.served import Served
from gateway.text import Choice
from gateway.workers import Workers
from tests.gateway.conftest import END
from tests.gateway.scripted import WORDS, Scripted, serving

SPEC = small_spec()
BLOCKS = 4


def prompt(seed: int) -> list[int]:
    return random_tokens(BLOCKS * SPEC.block_tokens, seed)


@dataclass
class Node:
    """A store, and a decode worker beside it."""

    name: str
    store: TieredStore
    server: CacheStoreServer
    worker: Scripted
    member: Member

    def has(self, seed: int) -> None:
        """The store has the blocks of this prompt."""
        put_blocks(self.store.namespace("default"), fingerprint(SPEC), random_blocks(SPEC, prompt(seed), seed))

    def says(self, queue: int) -> None:
        """The worker's heartbeat."""
        with RemoteStore(self.server.address) as store:
            store.register(replace(self.member, queue=queue), 60)


@dataclass
class Asking:
    """Asks a gateway's inside before all nodes."""

    nodes: Sequence[Node]
    counters: Counters = field(default_factory=Counters)
    shares: Shares | None = None

    def chosen(self, seeds: Sequence[int], routing: Routing) -> list[str]:
        """The names of the workers to which prompts of these seeds went, one behind the other."""
        return asyncio.run(self._chosen(seeds, routing))

    async def _chosen(self, seeds: Sequence[int], routing: Routing) -> list[str]:
        served = Served("tiny", WORDS, SPEC, 1 << 20, 1 << 20, frozenset({END}))
        workers = Workers([node.server.address for node in self.nodes], served.fingerprint, 0.05, 0.1, 5.0)
        prefixes = Prefixes(served.fingerprint)
        generating = Generating(served, workers, prefixes, routing, self.counters, 5.0, self.shares)
        await workers.open()
        try:
            await self._mirrored(prefixes, served, seeds)
            names = []
            for seed in seeds:
                choice = Choice(served, Asked(prompt(seed), wire.Sampling(), Stop(1), None))
                async for _ in generating.pieces(choice, ANYBODY, "", time.monotonic() + 10):
                    pass
                names.append(next(node.name for node in self.nodes if self._took(node)))
            return names
        finally:
            await workers.close()
            prefixes.close()

    async def _mirrored(self, prefixes: Prefixes, served: Served, seeds: Sequence[int]) -> None:
        """Until the gateway's mirrors know what the stores have."""
        for node in self.nodes:
            with RemoteStore(node.server.address) as store:
                for keys in map(served.keys, map(prompt, seeds)):
                    ready = store.lookup(keys).ready
                    until = time.monotonic() + 5
                    while prefixes.stored(node.server.address, ANYBODY, "", keys) != ready:
                        assert time.monotonic() < until
                        await asyncio.sleep(0.01)

    @staticmethod
    def _took(node: Node) -> bool:
        took = bool(node.worker.asked)
        node.worker.asked.clear()
        return took


@pytest.fixture
def ask() -> Iterator[Asking]:
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            store = stack.enter_context(TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()))
            server = stack.enter_context(CacheStoreServer(store, ServiceSettings(port=0)))
            worker = Scripted()
            address = stack.enter_context(serving(worker))
            name = f"decode-{number}"
            member = Member("decode", name, address, str(number), bytes(16), fingerprint=fingerprint(SPEC))
            nodes.append(Node(name, store, server, worker, member))
            nodes[-1].says(0)
        yield Asking(nodes)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_prompt_goes_where_its_blocks_are(ask: Asking, number: int) -> None:
    for seed in range(1, 6):
        ask.nodes[number].has(seed)
    assert ask.chosen(range(1, 6), PrefixLoad()) == [ask.nodes[number].name] * 5
    figures = list(ask.counters.figures())
    assert total(figures, "routed", by="prefix") == 5
    assert total(figures, "routed_known_blocks") == total(figures, "routed_blocks") == 5 * BLOCKS


def test_who_has_too_much_to_do_is_spared_whatever_it_has(ask: Asking) -> None:
    ask.nodes[0].has(1)
    ask.nodes[0].says(40)
    assert ask.nodes[0].name not in ask.chosen([1] * 3, PrefixLoad())
    # a weight that counts nothing but the prefix is held back by the hot spot's bound
    assert ask.nodes[0].name not in ask.chosen([1] * 3, PrefixLoad(load=0.0))
    assert ask.chosen([1] * 3, PrefixLoad(load=0.0, hot=1000.0)) == [ask.nodes[0].name] * 3


def test_what_is_popular_spreads_over_workers_that_read_from_each_other(ask: Asking) -> None:
    ask.nodes[0].has(1)
    assert set(ask.chosen([1] * 6, PrefixLoad())) == {ask.nodes[0].name}
    ask.shares = Shares(spare=0.5 * BLOCKS * SPEC.block_tokens)
    chosen = ask.chosen([1] * 12, PrefixLoad())
    assert chosen[0] == ask.nodes[0].name
    assert set(chosen) == {node.name for node in ask.nodes} and max(Counter(chosen).values()) <= 6
    assert total(ask.counters.figures(), "routed_past") > 0


def test_with_one_worker_nobody_is_passed_over(ask: Asking) -> None:
    ask.nodes[0].has(1)
    ask.nodes = ask.nodes[:1]
    ask.shares = Shares(most=0.5)
    assert ask.chosen([1] * 3, PrefixLoad()) == [ask.nodes[0].name] * 3
    assert total(ask.counters.figures(), "routed_past") == 0


def test_with_more_stores_than_mirrors_each_of_a_namespace_keeps_its_own(
    ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.prefixes.MOST_MIRRORS", 2)
    for seed, node in enumerate(ask.nodes):
        node.has(seed)
    assert ask.chosen(range(3), PrefixLoad()) == [node.name for node in ask.nodes]


def test_where_nobody_has_anything_equal_beginnings_meet(ask: Asking) -> None:
    seeds = [seed for seed in range(1, 25) for _ in range(2)]
    chosen = ask.chosen(seeds, PrefixLoad())
    assert chosen[::2] == chosen[1::2]
    assert min(Counter(chosen).values()) >= 4 and len(set(chosen)) == 3
