"""A durable block is kept by as many nodes as are counted: acknowledged not before, and so for good."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from cachestore import settings
from cachestore.deadline import Deadline
from cachestore.errors import ConfigError, DurabilityUnmet
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.operating import Operating
from cachestore.service.operation import State
from cachestore.store.base import Durability, PutAnswer, Store, put_blocks
from cachestore.testing import plans_of, random_prompt, small_spec, write_blocks
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, fake, hosted, read, tables
from tests.faults.processes import Process
from tests.redis_servers.server import RedisServer

OTHER, MORE = random_prompt(small_spec(), 6, seed=2)


class Several:
    """Nodes with one Redis, of which `default` keeps durable blocks on so many."""

    def __init__(self, redis: RedisServer, stack: contextlib.ExitStack) -> None:
        self.redis, self.stack = redis, stack
        self.hosts: dict[str, Any] = {}
        self.stores: dict[str, RemoteStore] = {}

    def start(self, names: str, nodes: int = 2, beside: int = 0, **more: Any) -> None:
        """Starts these, and waits until all know each other, and so many `beside` them."""
        # a machine that is busy must not look like a node that hangs
        peers = {"timeout": "5s", "durable": {"default": nodes}, "copy_after": 1000}
        for name in names:
            host = self.stack.enter_context(hosted(tables(self.redis, peers=peers, **more), name))
            self.hosts[name] = host
            self.stores[name] = self.stack.enter_context(RemoteStore(host.address(), transports=("stream",)))
        self.knows(len(self.stores) + beside)

    def knows(self, count: int) -> None:
        """Waits until each knows of so many."""
        eventually(lambda: all(total(s.stats(), "directory_lives") == count for s in self.stores.values()))

    def end(self, name: str) -> None:
        """Ends one: to the others that is as if it had died, only that they hear of it."""
        self.stores.pop(name).close()
        self.hosts.pop(name).close()
        self.knows(len(self.stores))

    def kept(self) -> dict[str, int]:
        """How many blocks each keeps for good."""
        figures = {name: store.stats() for name, store in self.stores.items()}
        return {name: int(total(some, "tier_blocks", tier="replicas")) for name, some in figures.items()}


@pytest.fixture
def several(redis_server: Callable[..., RedisServer]) -> Iterator[Several]:
    with contextlib.ExitStack() as stack:
        yield Several(redis_server(), stack)


def keep(
    store: Store, keys: Chain = KEYS, blocks: Any = BLOCKS, ttl: float | None = None, timeout: float = 60.0
) -> list[PutAnswer]:
    plans = plans_of(blocks)
    with store.put(keys.fingerprint, plans, durability=Durability.DURABLE, ttl=ttl, timeout=timeout) as put:
        write_blocks(put, blocks)
        put.commit()
        return list(put.answers)


def test_a_durable_put_is_acknowledged_by_so_many_nodes_and_outlives_the_one_that_took_it(several: Several) -> None:
    several.start("abc", tiers=[{"name": "cpu", "capacity": "256KiB"}])
    answers = keep(several.stores["a"])
    assert [(answer.status, answer.tier) for answer in answers] == [("stored", "replicas")] * 6
    assert sorted(several.kept().values()) == [0, 6, 6] and several.kept()["a"] == 6
    # nothing drives them out of either memory
    for seed in (3, 4):
        many, blocks = random_prompt(small_spec(), 60, seed=seed)
        for store in several.stores.values():
            put_blocks(store, many.fingerprint, blocks)
    assert all(total(store.stats(), "evicted", tier="cpu") for store in several.stores.values())
    assert sorted(several.kept().values()) == [0, 6, 6]
    # once more is nothing new
    assert {answer.status for answer in keep(several.stores["a"])} == {"already_exists"}
    several.end("a")
    assert [len(read(store)) for store in several.stores.values()] == [6, 6]
    # and those who are left make up for it
    eventually(lambda: several.kept() == {"b": 6, "c": 6})
    # counted by who gave them, once the other has said so
    eventually(lambda: sum(total(store.stats(), "durable_repaired") for store in several.stores.values()) == 6)
    # until nobody is left for that
    several.end("b")
    last = several.stores["c"]
    eventually(lambda: total(last.stats(), "durable_lacking") == 6)
    assert several.kept() == {"c": 6}
    several.start("d")
    eventually(lambda: several.kept() == {"c": 6, "d": 6} and not total(last.stats(), "durable_lacking"))


def test_too_few_nodes_acknowledge_nothing_and_leave_nothing(several: Several) -> None:
    several.start("ab", 3)
    with pytest.raises(DurabilityUnmet, match=r"\[peers.durable\] has 3 nodes keep them, and 2 are alive"):
        keep(several.stores["a"])
    # what the other one took it lets go
    eventually(lambda: several.kept() == {"a": 0, "b": 0})
    store = several.stores["a"]
    assert store.lookup(KEYS).ready == 0 or store.lookup(KEYS).runs[0].node != "a"
    assert total(store.stats(), "put_failed") == 6
    # what is there already is no more durable for that, and stays
    put_blocks(store, OTHER.fingerprint, MORE)
    with pytest.raises(DurabilityUnmet):
        keep(store, OTHER, MORE)
    eventually(lambda: several.kept() == {"a": 0, "b": 0})
    assert store.lookup(OTHER).ready == 6
    several.start("c", 3)
    assert {answer.tier for answer in [*keep(store), *keep(store, OTHER, MORE)]} == {"replicas"}
    assert several.kept() == {"a": 12, "b": 12, "c": 12}


def test_a_node_that_too_few_others_could_replace_stays_and_says_how_many_it_takes(several: Several) -> None:
    several.start("ab")
    keep(several.stores["a"])
    with contextlib.closing(Operating(several.hosts["a"].address())) as operating:
        operating.open()
        told = operating.drain(20.0)
        until = Deadline.after(30.0)
        while not told.done:
            until.check("draining")
            told = operating.drain()
        assert (told.state, told.durable_left) == (State.SERVING, 6)
        assert told.why.endswith("[peers.durable] asks for 2 other nodes, and 1 is alive; start more")


def test_a_node_that_does_not_answer_does_not_count(several: Several) -> None:
    several.start("a")
    # nobody listens there
    with fake(several.redis, "127.0.0.1:9", bytes(32)):
        several.knows(2)
        with pytest.raises(DurabilityUnmet):
            keep(several.stores["a"])
        several.start("b", beside=1)
        assert len(keep(several.stores["a"])) == 6
        assert several.kept() == {"a": 6, "b": 6}


def test_a_removed_block_is_removed_everywhere_and_may_be_put_again(several: Several) -> None:
    several.start("ab")
    keep(several.stores["a"])
    assert several.stores["b"].delete(KEYS) == 6
    assert several.kept() == {"a": 0, "b": 0}
    assert several.stores["a"].lookup(KEYS).ready == 0
    assert {answer.status for answer in keep(several.stores["b"])} == {"stored"}
    several.stores["a"].clear()
    assert several.kept() == {"a": 0, "b": 0}


@pytest.mark.slow
def test_a_block_ends_by_its_time_on_all_nodes_and_a_later_end_reaches_all(several: Several) -> None:
    several.start("ab")
    keep(several.stores["a"], ttl=10.0)
    keep(several.stores["a"], OTHER, MORE, ttl=10.0)
    assert {answer.status for answer in keep(several.stores["a"], OTHER, MORE)} == {"already_exists"}
    eventually(lambda: several.kept() == {"a": 6, "b": 6})
    several.end("a")
    assert len(read(several.stores["b"], OTHER)) == 6 and not read(several.stores["b"])


def test_a_node_that_leaves_hands_over_so_that_the_count_is_kept(several: Several) -> None:
    several.start("ab")
    keep(several.stores["a"])
    operator = several.hosts["a"].operator
    operator.drain(20.0, force=False)
    eventually(lambda: operator.drain(0.0, force=False).done)
    told = operator.drain(0.0, force=False)
    # with one node less there would be one copy only
    assert (told.state, told.durable_moved, told.durable_left) == ("serving", 0, 6) and "no other place" in told.why
    several.start("c")
    operator.drain(20.0, force=False)
    eventually(lambda: operator.drain(0.0, force=False).done)
    told = operator.drain(0.0, force=False)
    assert (told.state, told.durable_moved, told.durable_left) == ("drained", 6, 0)
    del several.stores["a"]
    assert several.kept() == {"b": 6, "c": 6}


@pytest.mark.slow
def test_the_node_that_took_a_put_may_be_killed_right_behind_the_acknowledgement(
    redis_server: Callable[..., RedisServer],
) -> None:
    peers = {"timeout": "1s", "durable": {"*": 2}, "copy_after": 1000}
    with contextlib.ExitStack() as stack:
        redis = redis_server()
        starting = [tables(redis, peers=peers, store={"node": name}) for name in "abc"]
        with ThreadPoolExecutor() as pool:
            nodes = dict(zip("abc", pool.map(partial(Process, "faults/node_process.py"), starting), strict=True))
        for node in nodes.values():
            stack.callback(node.kill)
        stores = {
            name: stack.enter_context(RemoteStore(node.said, transports=("stream",))) for name, node in nodes.items()
        }
        eventually(lambda: all(total(store.stats(), "directory_lives") == 3 for store in stores.values()))
        keep(stores["a"])
        nodes["a"].kill()
        eventually(lambda: [len(read(stores[name])) for name in "bc"] == [6, 6], 5.0)
        # and once the dead is known to be dead, two keep them again
        eventually(lambda: [total(stores[name].stats(), "tier_blocks", tier="replicas") for name in "bc"] == [6, 6])
        nodes["b"].kill()
        assert len(read(stores["c"])) == 6


def test_other_namespaces_have_their_own_ways(several: Several, tmp_path: Any) -> None:
    disk = [{"name": "cpu", "capacity": "16MiB"}, {"name": "disk", "path": str(tmp_path), "capacity": "4MiB"}]
    peers = {"durable": {"acme": 2}}
    host = several.stack.enter_context(hosted(tables(several.redis, peers=peers, tiers=disk), "a"))
    store = several.stack.enter_context(RemoteStore(host.address(), transports=("stream",)))
    assert {answer.tier for answer in keep(store)} == {"disk"}


@pytest.mark.parametrize("durable", [{"acme": 1}, {"acme": 99}, {"": 2}, {"acme": "two"}])
def test_what_cannot_be_is_refused_by_name(durable: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"peers\.durable"):
        settings.check({"tiers": [{"name": "cpu", "capacity": "4MiB"}], "peers": {"durable": durable}})
