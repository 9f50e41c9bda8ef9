"""What a node brings from another: by either way, in time, whole or not at all, and with nothing left behind."""

from collections.abc import Iterator
from threading import Event

import pytest

from cachestore.cluster import peer_ways
from cachestore.cluster.peer import Failed, Peer
from cachestore.cluster.peer_tier import TIER
from cachestore.cluster.peer_ways import Ways
from cachestore.deadline import Deadline
from cachestore.errors import PermissionDenied, Unavailable
from cachestore.hashing import Chain, namespace_id
from cachestore.index import Name
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.store.base import put_blocks
from cachestore.testing import random_prompt, small_spec
from cachestore.testing.blocks import same
from tests.cluster.conftest import eventually
from tests.cluster.linked import NAMESPACE, Nodes, linked

KEYS, BLOCKS = random_prompt(small_spec(), 6)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with linked() as started:
        yield started


@pytest.mark.parametrize("bulk_port, way", [(0, "bulk"), (-1, "stream")])
def test_a_whole_prompt_comes_with_one_call_and_leaves_no_lease(nodes: Nodes, bulk_port: int, way: str) -> None:
    a, b = nodes.start("a", bulk_port=bulk_port), nodes.start("b", copy_after=100)
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    for turn in (1, 2):
        found = b.read(KEYS)
        assert all(same(each.block, wanted) for each, wanted in zip(found, BLOCKS, strict=True))
        assert {each.tier for each in found} == {TIER}
        assert a.counted("transport_read_blocks", transport=way) == 6 * turn
        assert a.counted("read_blocks", purpose="peer") == 6 * turn
    assert a.counted("read_hits", purpose="peer") == 12 == b.counted("read_hits", tier=TIER)
    assert b.counted("peer_read_blocks") == 12 and b.counted("peer_failures") == 0
    assert a.counted("leases_open") == b.counted("leases_open") == 0


def test_a_reader_that_leaves_early_ends_the_read_at_the_other_node(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b", copy_after=100)
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    with b.store.read(KEYS) as reading:
        next(iter(reading))
        assert a.counted("leases_open") == 1
    assert a.counted("leases_open") == b.counted("leases_open") == 0
    assert len(b.read(KEYS)) == 6


def test_what_is_rotten_at_one_node_is_read_from_another_next_time(nodes: Nodes) -> None:
    a, b, c = (nodes.start(name, copy_after=100) for name in "abc")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    entry = a.tiered.index.get(Name(NAMESPACE, KEYS.keys[3]))
    assert entry is not None
    entry.slot.bytes[-1] ^= 1
    assert len(b.read(KEYS)) == 3
    assert b.counted("corruptions", tier=TIER) == 1
    # the holder heard of it, and nobody is sent there for it any more
    assert a.store.lookup(KEYS).ready == 3 == b.store.lookup(KEYS).ready
    put_blocks(c.store, KEYS.fingerprint, BLOCKS)
    assert len(b.read(KEYS)) == 6


def test_what_went_from_a_node_that_had_not_heard_to_one_that_had_is_removed_there_too(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (nodes.start(name, copy_after=1) for name in "abc")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    heard, delete = Event(), Peer.delete

    def late(peer: Peer, namespace: bytes, chain: Chain, deadline: Deadline) -> bool:
        if peer.life.node == "a" and heard.wait(5.0) and not b.counted("peer_read_blocks"):
            assert len(b.read(KEYS)) == 6 and b.tiered.settle()
        done = delete(peer, namespace, chain, deadline)
        if peer.life.node == "b":
            heard.set()
        return done

    monkeypatch.setattr(Peer, "delete", late)
    assert c.store.delete(KEYS) == 6
    assert b.counted("promoted") == 6
    assert [node.store.lookup(KEYS).ready for node in (a, b, c)] == [0, 0, 0]


def test_a_node_may_remove_blocks_of_any_namespace_and_put_none_over_the_bulk_path(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b", copy_after=100)
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    shown = Credentials().for_namespace(namespace_id(DEFAULT_NAMESPACE))
    with RemoteStore(a.server.address, transports=("bulk",), credentials=shown) as as_node:
        # its connection is known from now on
        with as_node.read(KEYS) as reading:
            assert len(list(reading)) == 6
        other, theirs = random_prompt(small_spec(), 2, seed=7)
        with pytest.raises(PermissionDenied, match="needs the role"):
            put_blocks(as_node, other.fingerprint, theirs)
    assert a.store.lookup(other).ready == 0 and b.store.delete(KEYS) == 6


def test_who_is_closed_reads_from_nobody_and_opens_nothing(nodes: Nodes) -> None:
    a, b = nodes.start("a"), nodes.start("b")
    put_blocks(a.store, KEYS.fingerprint, BLOCKS)
    life = b.peers.others()[0]
    b.peers.close()
    assert b.read(KEYS) == []
    with pytest.raises(Failed), b.peers.peer(life).reading(NAMESPACE, KEYS, Deadline.after(1.0)):
        raise AssertionError("it was opened")


def test_namespaces_make_room_for_each_other_but_for_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_ways, "MOST_WAYS", 2)
    ways = Ways("127.0.0.1:1", bytes(8), Credentials())
    with ways.hold(b"a" * 32) as first:
        for name in (b"b", b"c", b"d"):
            with ways.hold(32 * name) as way:
                assert way is not first
        with ways.hold(b"a" * 32) as again:
            assert again is first
    with ways.hold(b"b" * 32) as way:
        assert way.users == 1
    ways.close()
    with pytest.raises(Unavailable, match="closed"), ways.hold(b"a" * 32):
        raise AssertionError("it was opened")


def test_nobody_is_asked_at_a_socket_of_this_machine(nodes: Nodes) -> None:
    b = nodes.start("b")
    nodes.says("liar", "unix:/liar.sock", *KEYS.keys)
    assert b.read(KEYS) == [] and b.counted("peer_failures", reason="bad_configuration") <= 1
    assert b.counted("peer_failures") == 1


def test_a_long_prompt_is_verified_and_copied_while_it_is_read(nodes: Nodes) -> None:
    keys, blocks = random_prompt(small_spec(), 300)
    a, b = nodes.start("a"), nodes.start("b")
    put_blocks(a.store, keys.fingerprint, blocks)
    found = b.read(keys)
    assert all(same(each.block, wanted) for each, wanted in zip(found, blocks, strict=True))
    eventually(lambda: b.tiered.settle() and b.store.lookup(keys).runs[0].tier == "cpu")
    assert a.counted("read_hits", purpose="peer") == 300 == b.counted("peer_read_blocks")
