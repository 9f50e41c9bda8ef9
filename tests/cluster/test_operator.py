"""A node says what it is, leaves in order, hands over what others should have, and takes that from others."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.cluster.handing_over import HandingOver
from cachestore.cluster.host import StoreHost
from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, PermissionDenied, Unavailable
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.client import RemoteStore
from cachestore.service.operating import Operating
from cachestore.service.operation import Moved, State
from cachestore.store.base import Durability, put_blocks
from cachestore.store.put import LocalPut
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, small_spec
from cachestore.testing.blocks import plans_of, same, write_blocks
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import fake
from tests.redis_servers.server import RedisServer

KEYS, BLOCKS = random_prompt(small_spec(), 6)
OTHERS, MORE = random_prompt(small_spec(), 5, seed=2)
COLD, UNREAD = random_prompt(small_spec(), 4, seed=3)


def tables(server: RedisServer, folder: Path | None = None, **more: Any) -> dict[str, Any]:
    """A node's configuration, with a disk of its own in `folder`."""
    waits = {"connect_timeout": "2s", "timeout": "2s"}
    tiers: list[dict[str, Any]] = [{"name": "cpu", "capacity": "16MiB"}]
    if folder is not None:
        tiers.append({"name": "disk", "path": str(folder), "capacity": "64MiB"})
    return {
        "tiers": tiers,
        "directory": {"name": "redis", "heartbeat": "100ms", "ttl": "5s", "server": {"url": server.url}, **waits},
        "peers": {"timeout": "5s"},
        "service": {"port": 0, "drain": 0.1},
        **more,
    }


class Node:
    """A store in this process, as its clients and its operator reach it; `ended` says that its process would end."""

    def __init__(self, stack: contextlib.ExitStack, tables: dict[str, Any], name: str, credentials: Any = None) -> None:
        self.ended: list[str] = []
        self.host = StoreHost(tables, name, 0, ended=lambda: self.ended.append(name))
        stack.callback(self.host.close)
        self.address = self.host.address()
        self.store = stack.enter_context(RemoteStore(self.address, transports=("stream",), credentials=credentials))
        self.operating = stack.enter_context(contextlib.closing(Operating(self.address, credentials)))
        self.operating.open()

    def drained(self, seconds: float = 20.0, *, force: bool = False) -> Moved:
        """Drains it to the end."""
        return over(self.operating.drain, self.operating.drain(seconds, force=force))


def over(ask: Callable[[], Moved], told: Moved) -> Moved:
    until = time.monotonic() + 30.0
    while not told.done:
        assert time.monotonic() < until, told
        time.sleep(0.02)
        told = ask()
    return told


@pytest.fixture
def nodes(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts nodes with one directory, each with a disk where `disk` says so."""
    with contextlib.ExitStack() as stack:
        server = redis_server()

        def start(name: str, disk: bool = False, credentials: Any = None, **more: Any) -> Node:
            folder = tmp_path / name
            if disk:
                folder.mkdir(mode=0o700)
            return Node(stack, tables(server, folder if disk else None, **more), name, credentials)

        yield start


def read(store: RemoteStore, keys: Chain) -> list[Any]:
    with store.read(keys, timeout=10.0) as reading:
        return list(reading)


def put_durable(store: RemoteStore, ttl: float | None = None) -> None:
    with store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE, ttl=ttl) as put:
        write_blocks(put, BLOCKS)
        put.commit()


def met(*nodes: Node) -> None:
    """All of them know of each other."""
    eventually(lambda: all(len(node.operating.node().nodes) == len(nodes) for node in nodes))


def test_a_node_says_what_it_is(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    met(a, b)
    eventually(lambda: a.operating.node(samples=100).announced == len(KEYS))
    facts = a.operating.node(samples=4)
    assert (facts.node, facts.address, facts.state, facts.directory) == ("a", a.address, State.SERVING, True)
    assert [(member.name, member.address) for member in facts.nodes] == [("a", a.address), ("b", b.address)]
    assert facts.incarnation == facts.nodes[0].incarnation and facts.sampled == facts.announced == 4
    (memory,) = facts.tiers
    assert (memory.name, memory.blocks, memory.capacity, memory.healthy) == ("cpu", len(KEYS), 16 << 20, True)
    assert 0 < memory.used <= memory.capacity and abs(facts.clock - time.time()) < 5.0
    assert facts.alike == b.operating.node().alike


def test_a_node_that_leaves_hands_over_what_is_durable_and_what_is_read(nodes: Callable[..., Node]) -> None:
    a = nodes("a", disk=True)
    put_durable(a.store)
    put_blocks(a.store, OTHERS.fingerprint, MORE)
    put_blocks(a.store, COLD.fingerprint, UNREAD)
    read(a.store, OTHERS)
    b, c = nodes("b", disk=True), nodes("c", disk=True)
    met(a, b, c)
    told = a.drained()
    assert (told.state, told.why) == (State.DRAINED, "")
    assert (told.durable_moved, told.durable_left) == (6, 0)
    assert (told.hot_moved, told.hot_left) == (5, 0) and told.bytes_moved > 0
    eventually(lambda: a.ended == ["a"])
    a.host.close()
    met(b, c)
    for keys, blocks in ((KEYS, BLOCKS), (OTHERS, MORE)):
        found = read(b.store, keys)
        assert len(found) == len(blocks)
        assert all(same(each.block, wanted) for each, wanted in zip(found, blocks, strict=True))
    assert b.store.lookup(COLD).ready == 0
    # durable means the same where they are now: they are on disk, and survive what empties memory
    kept = {node: total(node.store.stats(), "tier_durable_bytes", tier="disk") for node in (b, c)}
    assert sum(map(bool, kept.values())) >= 1
    for node in (b, c):
        node.store.clear("cpu")
    assert {each.tier for each in read(b.store, KEYS)} <= {"disk", "peer"}
    for node in (b, c):
        node.host.operator.tiered.check()


def test_a_draining_node_reads_and_takes_no_puts(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    met(a, b)
    a.host.operator.tiered.refuses = "draining"
    with pytest.raises(Unavailable, match="draining"):
        put_blocks(a.store, OTHERS.fingerprint, MORE)
    assert len(read(a.store, KEYS)) == len(KEYS)
    figures = a.store.stats()
    assert total(figures, "put_refused") == len(MORE)
    assert total(figures, "put_blocks") == len(BLOCKS) + len(MORE)


def test_a_node_stays_with_durable_blocks_that_nobody_takes(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a", disk=True), nodes("b")
    put_durable(a.store)
    met(a, b)
    told = a.drained()
    assert (told.state, told.durable_left, told.durable_moved) == (State.SERVING, 6, 0)
    assert told.why == "6 durable blocks found no other place; give other nodes room on a disk" and not a.ended
    put_blocks(a.store, OTHERS.fingerprint, MORE)
    met(a, b)
    told = a.drained(force=True)
    assert told.state is State.DRAINED and told.durable_left == 6
    eventually(lambda: a.ended == ["a"])


def test_what_is_made_durable_while_a_node_drains_is_handed_over(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a", disk=True), nodes("b", disk=True)
    met(a, b)
    with a.store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
        write_blocks(put, BLOCKS)
        assert not a.operating.drain(20.0).done
        put.commit()
    told = over(a.operating.drain, a.operating.drain())
    assert (told.state, told.durable_moved, told.durable_left) == (State.DRAINED, 6, 0)
    assert b.store.lookup(KEYS).ready == 6


@pytest.mark.parametrize("transport", ["stream", "bulk", "shared"])
def test_a_put_that_is_open_when_a_node_leaves_is_acknowledged_nothing(
    nodes: Callable[..., Node], transport: str
) -> None:
    a, b = nodes("a", disk=True), nodes("b", disk=True)
    met(a, b)
    with (
        RemoteStore(a.address, transports=(transport,)) as store,
        store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put,
    ):
        assert [answer.status for answer in put.answers] == ["wanted"] * 6
        told = a.drained(0.5)
        assert (told.state, told.durable_left) == (State.DRAINED, 0)
        with pytest.raises(Unavailable, match="a is draining and takes no puts; call another node"):
            write_blocks(put, BLOCKS)
            put.commit()
    assert total(a.host.operator.tiered.namespace(DEFAULT_NAMESPACE).stats(), "put_aborted") == 6
    a.host.operator.tiered.check()


def test_what_is_committed_at_the_very_end_of_a_drain_counts_as_left(
    nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes("a", disk=True), nodes("b", disk=True)
    met(a, b)
    end_puts = TieredStore.end_puts

    def committing(tiered: TieredStore, why: str) -> None:
        put.commit()
        end_puts(tiered, why)

    with a.store.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
        write_blocks(put, BLOCKS)
        monkeypatch.setattr(TieredStore, "end_puts", committing)
        told = a.drained(0.5)
    assert (told.state, told.durable_left) == (State.SERVING, 6) and not a.ended


def test_a_put_that_is_still_being_reserved_when_a_node_leaves_is_refused(
    nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = nodes("a", disk=True), nodes("b", disk=True)
    met(a, b)
    reserve, told = LocalPut.reserve, []

    def slowly(put: LocalPut) -> None:
        reserve(put)
        if not told:
            told.append(a.drained())

    monkeypatch.setattr(LocalPut, "reserve", slowly)
    with pytest.raises(Unavailable, match="a is draining and takes no puts"):
        put_durable(a.store)
    assert (told[0].state, told[0].durable_left) == (State.DRAINED, 0)
    a.host.operator.tiered.check()


def test_of_two_who_drain_a_node_the_more_urgent_counts_and_both_hear_how_it_went(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a", disk=True), nodes("b")
    put_durable(a.store)
    met(a, b)
    with (
        contextlib.closing(Operating(a.address)) as second,
        # which alone would keep it waiting for a minute
        a.store.put(OTHERS.fingerprint, plans_of(MORE), timeout=60.0),
    ):
        second.open()
        assert not a.operating.drain(60.0).done
        second.drain(0.5, force=True)
        told = over(a.operating.drain, a.operating.drain())
        assert (told.state, told.durable_left) == (State.DRAINED, 6) and not a.ended
        assert second.drain() == told
    eventually(lambda: a.ended == ["a"])
    c = nodes("c")
    met(b, c)
    with c.store.put(OTHERS.fingerprint, plans_of(MORE), timeout=60.0):
        assert not c.operating.drain(1.0).done
        assert over(c.operating.drain, c.operating.drain(60.0)).state is State.DRAINED


def test_alone_there_is_nobody_to_hand_over_to(nodes: Callable[..., Node]) -> None:
    a = nodes("a")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    read(a.store, KEYS)
    met(a)
    told = a.drained()
    assert (told.state, told.hot_moved, told.hot_left) == (State.DRAINED, 0, 6)


def test_what_others_have_already_is_not_moved(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    for node in (a, b):
        put_blocks(node.store, KEYS.fingerprint, BLOCKS)
    read(a.store, KEYS)
    met(a, b)
    peers = a.host.operator.peers
    assert peers is not None
    (entry,) = {name for name, _ in a.host.operator.tiered.present}
    eventually(lambda: all(peers.holders(entry, KEYS.keys, Deadline.after(5.0))))
    told = a.drained()
    assert (told.hot_moved, told.elsewhere) == (0, 6)


def test_what_is_read_most_goes_to_others_for_balance(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    put_blocks(a.store, OTHERS.fingerprint, MORE)
    for _ in range(2):
        read(a.store, KEYS)
    read(a.store, OTHERS)
    met(a, b)
    half = sum(data.nbytes for block in BLOCKS for data in block.data)
    told = over(a.operating.rebalance, a.operating.rebalance(20.0, half))
    assert told.state is State.SERVING and 1 <= told.hot_moved <= 6 and told.hot_left == 0
    eventually(lambda: total(b.store.stats(), "tier_blocks", tier="cpu") == told.hot_moved)
    assert total(a.store.stats(), "tier_blocks", tier="cpu") == 11 - told.hot_moved
    assert total(a.store.stats(), "evicted", reason="rebalance") == told.hot_moved
    eventually(lambda: a.store.lookup(KEYS).ready == 6 and b.store.lookup(OTHERS).ready == 5)
    assert {run.node for run in b.store.lookup(KEYS).runs} == {"a", "b"} or b.store.lookup(KEYS).runs[0].node == "b"
    a.host.operator.tiered.check()


def test_a_node_that_spreads_blocks_can_leave_all_the_same(
    nodes: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    monkeypatch.setattr(HandingOver, "some", lambda self, nbytes: held.wait(20.0))
    a = nodes("a")
    try:
        assert not a.operating.rebalance(20.0, 1).done
        told = a.drained()
        assert told.done and told.state is State.DRAINED
        eventually(lambda: a.ended == ["a"])
    finally:
        held.set()


def test_the_dead_are_forgotten_and_the_living_are_not(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    met(a, b)
    before = b.operating.node().incarnation
    a.operating.forget("b")
    # it lives, so it joins again
    eventually(lambda: b.operating.node().incarnation != before)
    met(a, b)


def test_who_is_not_forgotten_is_not_said_to_be(redis_server: Callable[..., RedisServer]) -> None:
    with contextlib.ExitStack() as stack:
        server = redis_server()
        a = Node(stack, tables(server), "a")
        # nobody listens there
        with fake(server, "127.0.0.1:9", bytes(32)):
            known = lambda: [member.name for member in a.operating.node().nodes]  # noqa: E731
            eventually(lambda: known() == ["a", "fake"])
            with pytest.raises(InvalidArgument, match="knows of no 'nobody'; there are a, fake"):
                a.operating.forget("nobody")
            server.kill()
            with pytest.raises(Unavailable, match="cannot be told to forget fake"):
                a.operating.forget("fake")
            assert known() == ["a", "fake"]
            eventually(lambda: not a.operating.node().directory)
            with pytest.raises(Unavailable, match="cannot be reached, so it cannot be told to forget nobody"):
                a.operating.forget("nobody")


def test_who_may_operate(nodes: Callable[..., Node], tmp_path: Path) -> None:
    tokens = {role: new_token() for role in ("admin", "writer", "peer")}
    given = tmp_path / "peer-token"
    given.touch(mode=0o600)
    given.write_text(tokens["peer"])
    identities = [
        {"name": role, "role": role, "token": f"sha256:{digest_of(token).hex()}"} for role, token in tokens.items()
    ]
    more = {
        "service": {"port": 0, "drain": 0.1, "identities": identities},
        "peers": {"timeout": "5s", "credentials": {"token_file": str(given)}},
        "credentials": Credentials(token=tokens["admin"]),
    }
    a, b = nodes("a", **more), nodes("b", **more)
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    read(a.store, KEYS)
    met(a, b)
    with contextlib.closing(Operating(a.address, Credentials(token=tokens["writer"]))) as writer:
        writer.open()
        for refused in (writer.node, writer.drain, writer.rebalance, lambda: writer.forget("b")):
            with pytest.raises(PermissionDenied, match="admin"):
                refused()
    with contextlib.closing(Operating(a.address, Credentials(token=tokens["peer"]))) as peer:
        peer.open()
        with pytest.raises(PermissionDenied):
            peer.node()
    told = a.drained()
    assert (told.hot_moved, told.hot_left, told.state) == (6, 0, State.DRAINED)
    assert b.host.operator.tiered.namespace(DEFAULT_NAMESPACE).lookup(KEYS).ready == 6


def test_blocks_are_taken_from_the_living_only(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    met(a, b)
    with pytest.raises(Unavailable, match="incarnation"):
        b.operating.take(b"nobodys!", KEYS, durable=False, timeout=5.0)
    incarnation = a.operating.node().incarnation
    put_blocks(a.store, KEYS.fingerprint, BLOCKS[:1] + BLOCKS[2:])
    # what is not there is passed over
    there = b.operating.take(incarnation, KEYS, durable=False, timeout=10.0)
    assert list(there) == [True, False, True, True, True, True]
    # nothing there keeps blocks for good
    there = b.operating.take(incarnation, KEYS, durable=True, timeout=10.0)
    assert list(there) == [False] * 6
