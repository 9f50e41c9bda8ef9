"""A node that leaves hands over what others should have, and refuses what it can no longer keep."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachestore.cluster.handing_over import HandingOver
from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.client import RemoteStore
from cachestore.service.operating import Operating
from cachestore.service.operation import State
from cachestore.store.base import Durability, put_blocks
from cachestore.store.put import LocalPut
from cachestore.store.tiered import TieredStore
from cachestore.testing.blocks import plans_of, same, write_blocks
from tests.cluster.conftest import eventually
from tests.cluster.operated_nodes import (
    BLOCKS,
    COLD,
    KEYS,
    MORE,
    OTHERS,
    UNREAD,
    Node,
    met,
    over,
    put_durable,
    read,
    starting,
)
from tests.redis_servers.server import RedisServer


@pytest.fixture
def nodes(redis_server: Callable[..., RedisServer], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    with starting(redis_server(), tmp_path) as start:
        yield start


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
