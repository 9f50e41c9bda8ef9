"""New blocks of chosen namespaces get further copies: as many as asked for, on nodes that answer."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cachestore import settings
from cachestore.cluster.peers import Peers
from cachestore.errors import ConfigError
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, fake, hosted, read, tables
from tests.redis_servers.server import RedisServer

OTHER, MORE = random_prompt(small_spec(), 6, seed=2)


@dataclass
class Trio:
    """Nodes with one Redis, and what each has of its own."""

    redis: RedisServer
    stack: contextlib.ExitStack
    stores: dict[str, RemoteStore] = field(default_factory=dict)
    hosts: dict[str, Any] = field(default_factory=dict)

    def start(self, names: str, **replicas: int) -> None:
        peers = {"timeout": "1s", "replicas": replicas, "copy_after": 1000}
        for name in names:
            host = self.stack.enter_context(hosted(tables(self.redis, peers=peers), name))
            self.hosts[name] = host
            self.stores[name] = self.stack.enter_context(RemoteStore(host.address(), transports=("stream",)))

    def holders(self, chain: Chain = KEYS) -> dict[str, int]:
        """How many of these blocks each node has in its own memory."""
        found = {name: store.lookup(chain).runs for name, store in self.stores.items()}
        return {name: sum(run.blocks for run in runs if run.tier == "cpu") for name, runs in found.items()}

    def counted(self, figure: str) -> int:
        return int(sum(total(store.stats(), figure) for store in self.stores.values()))


@pytest.fixture
def trio(redis_server: Callable[..., RedisServer]) -> Iterator[Trio]:
    with contextlib.ExitStack() as stack:
        yield Trio(redis_server(), stack)


def knows_all(trio: Trio, count: int) -> None:
    eventually(lambda: all(total(s.stats(), "directory_lives") == count for s in trio.stores.values()))


def test_a_prompt_gets_as_many_copies_as_asked_for_together_on_one_node(trio: Trio) -> None:
    trio.start("abc", default=2)
    knows_all(trio, 3)
    put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
    eventually(lambda: trio.counted("replicas_made") == 6)
    assert sorted(trio.holders().values()) == [0, 6, 6]
    # whoever took them does not hand them on
    put_blocks(trio.stores["a"], OTHER.fingerprint, MORE)
    eventually(lambda: trio.counted("replicas_made") == 12)
    assert sorted(trio.holders().values()) == [0, 6, 6]
    assert trio.counted("replicas_missing") == trio.counted("replicas_dropped") == 0
    trio.hosts["a"].close()
    eventually(lambda: len(read(trio.stores["b"])) == len(read(trio.stores["c"])) == 6)


def test_a_node_that_does_not_answer_is_passed_over_and_what_nobody_takes_is_counted(trio: Trio) -> None:
    trio.start("ab", **{"*": 2})
    # nobody listens there
    with fake(trio.redis, "127.0.0.1:9", bytes(32)):
        knows_all(trio, 3)
        put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
        eventually(lambda: trio.holders() == {"a": 6, "b": 6})
        trio.hosts["b"].close()
        del trio.stores["b"]
        knows_all(trio, 2)
        put_blocks(trio.stores["a"], OTHER.fingerprint, MORE)
        eventually(lambda: trio.counted("replicas_missing") == 6)


@pytest.mark.slow
def test_other_namespaces_get_none(trio: Trio) -> None:
    trio.start("ab", default=1, **{"*": 2})
    knows_all(trio, 2)
    put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
    # five times as long as new blocks wait for others
    time.sleep(0.5)
    assert trio.holders() == {"a": 6, "b": 0}


@pytest.mark.slow
def test_what_does_not_fit_into_the_backlog_is_dropped_and_counted(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachestore.cluster.replicas.BACKLOG", 4)
    trio.start("ab", default=2)
    knows_all(trio, 2)
    monkeypatch.setattr("cachestore.cluster.replicas.LINGER_SECONDS", 1.0)
    put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
    eventually(lambda: trio.counted("replicas_made") == 4)
    assert trio.counted("replicas_dropped") == 2


def test_what_waits_at_the_end_is_counted(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.start("ab", default=2)
    knows_all(trio, 2)
    monkeypatch.setattr("cachestore.cluster.replicas.LINGER_SECONDS", 60.0)
    put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
    host = trio.hosts["a"]
    counters = host.operator.peers.counters
    host.close()
    assert total(counters.figures(), "replicas_dropped", reason="closed") == 6
    assert total(counters.figures(), "replicas_dropped") == 6


def test_every_block_is_counted_once(trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    trio.start("ab", default=2)
    knows_all(trio, 2)
    # what is read from there, or goes before its turn, has no copies to be made
    monkeypatch.setattr("cachestore.cluster.replicas.LINGER_SECONDS", 1.0)
    put_blocks(trio.stores["a"], KEYS.fingerprint, BLOCKS)
    # where they are is told in batches
    eventually(lambda: trio.stores["b"].lookup(KEYS).ready == 6)
    with trio.stores["b"].read(KEYS) as reading:
        assert len(list(reading)) == 6
    assert trio.stores["b"].pin(KEYS, 60.0) == 6 and trio.stores["b"].clear("cpu") == 6
    eventually(lambda: trio.counted("replicas_made") == 6)
    assert trio.counted("replicas_dropped") == trio.counted("replicas_missing") == 0
    # one lot goes well, and then something is wrong
    well = Peers.holders
    asked = []

    def holders(self: Peers, namespace: bytes, *rest: Any) -> Any:
        asked.append(namespace)
        if len(asked) > 1:
            raise RuntimeError("a bug of ours")
        return well(self, namespace, *rest)

    monkeypatch.setattr("cachestore.cluster.lots.MOST_BLOCKS", 4)
    monkeypatch.setattr(Peers, "holders", holders)
    put_blocks(trio.stores["a"], OTHER.fingerprint, MORE)
    eventually(lambda: trio.counted("replicas_dropped") == 2)
    assert (trio.counted("replicas_made"), trio.counted("replicas_missing")) == (10, 0)


@pytest.mark.parametrize("replicas", [{"acme": 0}, {"acme": 99}, {"": 2}, {"acme": "two"}])
def test_what_cannot_be_is_refused_by_name(replicas: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"peers\.replicas"):
        settings.check({"tiers": [{"name": "cpu", "capacity": "4MiB"}], "peers": {"replicas": replicas}})
