"""N12: what happens to networks happens between the store and Redis: misses and counters, in time, and it heals."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cachestore.metrics import total
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums
from tests.faults.calls import outcome, putting, reading
from tests.faults.injections import (
    BOTH,
    DOWN,
    UP,
    AtByte,
    Bandwidth,
    BlackHole,
    DropAt,
    DuplicateAt,
    FlipAt,
    HalfCloseAt,
    Injection,
    Latency,
    Refuse,
    ResetAt,
    Slicer,
    Stall,
)
from tests.faults.proxy import Proxy
from tests.faults.values import prompt
from tests.faults.wire import SMALL

BLOCKS = 6


@dataclass
class Behind:
    """A store whose Redis is behind a proxy."""

    tiered: TieredStore
    proxy: Proxy

    @property
    def store(self) -> Any:
        """Its blocks of one namespace."""
        return self.tiered.namespace("default")

    def healthy(self) -> bool:
        """Whether Redis is asked."""
        return total(self.store.stats(), "tier_healthy", tier="redis") == 1

    def heals(self, seed: int, within: float = 10.0) -> None:
        """Waits until blocks come and go through Redis again."""
        until = time.monotonic() + within
        keys, blocks = prompt(SMALL, BLOCKS, seed)
        while True:
            putting(self.store, keys, blocks, 2.0)
            self.tiered.settle()
            outcome(lambda: self.store.clear("cpu", timeout=2.0), 2.0)
            if reading(self.store, keys, 2.0) == BLOCKS and self.healthy():
                return
            assert time.monotonic() < until, "Redis is not used again"
            # whatever is half there makes room for a new try
            outcome(lambda: self.store.delete(keys, timeout=2.0), 2.0)
            time.sleep(0.1)


@pytest.fixture(params=["tcp", pytest.param("unix", marks=pytest.mark.slow)])
def behind(request: pytest.FixtureRequest, redis_server: Callable[..., Any]) -> Iterator[Behind]:
    """A store in front of Redis; in the end its figures add up."""
    server = redis_server(tcp=request.param == "tcp")
    target = f"127.0.0.1:{server.port}" if server.tcp else f"unix:{server.folder}/redis.sock"
    listen = "127.0.0.1:0" if server.tcp else f"unix:{server.folder}/proxy.sock"
    with Proxy(target, listen) as proxy:
        url = f"redis://{proxy.address}" if server.tcp else f"unix://{server.folder}/proxy.sock"
        tiers = [{"name": "cpu", "capacity": "16MiB"}, {"name": "redis", "url": url}]
        with compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": {"prefetch": False}}) as tiered:
            yield Behind(tiered, proxy)
            check_sums(tiered.namespace("default").stats())
            tiered.check()


FAULTS: dict[str, Callable[[], Injection]] = {
    "n1 latency within its time": lambda: Latency(seconds=0.02, jitter=0.02),
    "n1 latency beyond its time": lambda: Latency(seconds=0.4),
    "n2 narrow": lambda: Bandwidth(DOWN, 4096.0),
    "n3 reset": lambda: ResetAt(DOWN, 1000, every=True),
    "n4 stalled there": lambda: Stall(UP),
    "n4 stalled back": lambda: Stall(DOWN, 1000),
    "n4 half closed": lambda: HalfCloseAt(DOWN, 1000, every=True),
    "n5 in single bytes": lambda: Slicer(BOTH, 1),
    "n6 lost": lambda: BlackHole(BOTH),
    "n6 lost on the way back": lambda: BlackHole(DOWN),
    "n6 refused": lambda: Refuse(),
    "n7 flipped": lambda: FlipAt(DOWN, 3001, every=True),
    "n7 dropped": lambda: DropAt(DOWN, 3001, every=True),
    "n7 duplicated": lambda: DuplicateAt(DOWN, 3001, every=True),
}
QUICK = {"n1 latency beyond its time", "n3 reset", "n4 stalled back", "n6 lost", "n7 flipped", "n7 duplicated"}
HARMLESS = {"n1 latency within its time", "n5 in single bytes"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAULTS]
)
def test_n12_a_faulty_way_to_redis_is_a_miss_in_time_and_heals(behind: Behind, name: str) -> None:
    keys, blocks = prompt(SMALL, BLOCKS)
    others, values = prompt(SMALL, BLOCKS, 2)
    assert putting(behind.store, keys, blocks) == ["stored"] * BLOCKS
    assert behind.tiered.settle()
    behind.store.clear("cpu")
    with behind.proxy.inject(FAULTS[name]()):
        if name == "n6 refused":
            behind.proxy.reset()
        for _ in range(2):
            got = reading(behind.store, keys, 1.0)
            assert got == BLOCKS or name not in HARMLESS
            # memory takes what Redis does not
            assert putting(behind.store, others, values, 1.0) in (["stored"] * BLOCKS, ["already_exists"] * BLOCKS)
            assert reading(behind.store, others, 1.0) == BLOCKS
    behind.heals(3)


def damaged(behind: Behind, times: int, seed: int) -> None:
    """Reads of blocks that only Redis has, damaged once each."""
    chance = random.Random(seed)
    kinds: list[Callable[[int], AtByte]] = [
        lambda at: FlipAt(DOWN, at, bit=at % 8),
        lambda at: DropAt(DOWN, at, length=1 + at % 40),
        lambda at: DuplicateAt(DOWN, at, length=1 + at % 40),
        lambda at: ResetAt(DOWN, at),
        lambda at: FlipAt(UP, at % 400, bit=at % 8),
    ]
    for number in range(times):
        keys, _ = prompt(SMALL, BLOCKS, 10 + number)
        behind.heals(10 + number)
        behind.store.clear("cpu")
        injection = kinds[number % len(kinds)](chance.randrange(45_000))
        behind.proxy.begin(injection)
        got = reading(behind.store, keys, 1.0)
        until = time.monotonic() + 10.0
        while got != BLOCKS and not injection.acted and time.monotonic() < until:
            # a machine that is busy was late, and nothing was damaged yet
            got = reading(behind.store, keys, 1.0)
        behind.proxy.end(injection)
        assert got in range(BLOCKS + 1) and (got == BLOCKS or injection.acted)
    behind.heals(5)


def test_n12_some_damaged_answers_of_redis_are_misses(behind: Behind) -> None:
    damaged(behind, 10, 1)


@pytest.mark.slow
def test_n12_many_damaged_answers_of_redis_are_misses(behind: Behind) -> None:
    damaged(behind, 150, 2)
