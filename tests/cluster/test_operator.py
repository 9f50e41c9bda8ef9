"""A node says what it is, forgets the dead, spreads what is read most, and takes blocks from others."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachestore.errors import InvalidArgument, PermissionDenied, Unavailable
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.operating import Operating
from cachestore.service.operation import State
from cachestore.store.base import put_blocks
from tests.cluster.conftest import eventually
from tests.cluster.operated_nodes import (
    BLOCKS,
    KEYS,
    MORE,
    OTHERS,
    Node,
    met,
    over,
    read,
    starting,
    tables,
)
from tests.cluster.peer_nodes import fake
from tests.redis_servers.server import RedisServer


@pytest.fixture
def nodes(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    with starting(redis_server(), tmp_path) as start:
        yield start


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
