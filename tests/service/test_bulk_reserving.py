"""Puts that are reserved on a connection that rests: whoever is known there makes no further call."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.errors import (
    Aborted,
    CacheStoreError,
    DeadlineExceeded,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from cachestore.metrics import total
from cachestore.service.auth import tokens
from cachestore.service.auth.certificates import Made
from cachestore.service.bulk import receiving, reserving, sink
from cachestore.service.bulk import server as bulk_server
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Durability, PutStatus, Store, put_blocks
from cachestore.testing import plans_of, random_prompt, same, write_blocks
from cachestore.testing.puts import PutTests
from tests.service.bulk_lines import BULK, LARGE, Serve, eventually, figure
from tests.service.tls_sides import mutual, one_way, showing, trusting

KEYS, BLOCKS = random_prompt(LARGE, 2)
OTHER, OTHERS = random_prompt(LARGE, 1, seed=2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The puts that clients begin with a call."""
    write, made = Connection.write, list[str]()

    def counted(connection: Connection, requests: Iterator[Any], timeout: float) -> Any:
        made.append("Write")
        return write(connection, requests, timeout)

    monkeypatch.setattr(Connection, "write", counted)
    return made


def known(store: RemoteStore) -> RemoteStore:
    """The store, with a connection that rests: a read showed its ticket there."""
    with store.read(OTHER) as reading:
        assert not list(reading)
    return store


class TestKnown(PutTests):
    @pytest.fixture
    def store(self, bulk: RemoteStore) -> Store:
        return known(bulk)


@pytest.mark.parametrize("tls", ["none", "one way", "mutual"])
def test_a_put_on_a_connection_that_rests_needs_no_call(serve: Serve, made: Made, calls: list[str], tls: str) -> None:
    settings = {"none": {}, "one way": one_way(made), "mutual": mutual(made)}[tls]
    credentials = {"none": None, "one way": trusting(made), "mutual": showing(made, made)}[tls]
    server = serve(**settings)
    with RemoteStore(server.address, transports=BULK, credentials=credentials) as store:
        for seed in range(4):
            keys, blocks = random_prompt(LARGE, 2, seed=seed)
            with store.put(keys.fingerprint, plans_of(blocks)) as put:
                write_blocks(put, blocks)
                lease = put.commit(lease=5.0)
                assert {answer.status for answer in put.answers} == {PutStatus.STORED}
            assert lease is not None and lease.blocks == 2
            store.release(lease)
            with store.read(keys) as reading:
                assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
        assert calls == ["Write"]
        assert figure(server, "bulk_transfers") == 8 and len(server.bulk.guests) == 1
        figures = store.stats()
        assert total(figures, "transport_put_blocks", transport="bulk") == 8
        assert total(figures, "puts_open") == total(figures, "leases_open") == 0


def test_blocks_that_are_there_are_not_sent(bulk: RemoteStore, calls: list[str]) -> None:
    known(bulk)
    put_blocks(bulk, KEYS.fingerprint, BLOCKS)
    with bulk.put(KEYS.fingerprint, plans_of(BLOCKS)) as put:
        assert {answer.status for answer in put.answers} == {PutStatus.ALREADY_EXISTS}
        lease = put.commit(lease=5.0)
        assert lease is not None and lease.blocks == 2
    bulk.release(lease)
    assert not calls


def test_it_is_for_whoever_showed_the_ticket(serve: Serve, people: Any, calls: list[str]) -> None:
    server = serve(**people.settings)
    alice, bob, reader = (
        RemoteStore(server.address, transports=BULK, credentials=people.credentials(name))
        for name in ("alice", "bob", "reader")
    )
    with alice, bob, reader:
        put_blocks(known(alice), KEYS.fingerprint, BLOCKS)
        assert bob.lookup(KEYS).ready == 0 and alice.lookup(KEYS).ready == reader.lookup(KEYS).ready == 2
        known(reader)
        with pytest.raises(PermissionDenied, match="Write needs the role writer, and reader is reader"):
            reader.put(OTHER.fingerprint, plans_of(OTHERS))
    assert not calls


def test_a_ticket_says_who_it_is_for_a_while(
    server: CacheStoreServer, bulk: RemoteStore, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(bulk_server, "KNOWN_SECONDS", 0.3)
    put_blocks(known(bulk), KEYS.fingerprint, BLOCKS)
    assert not calls
    eventually(lambda: not server.bulk.guests)
    put_blocks(bulk, OTHER.fingerprint, OTHERS)
    assert calls == ["Write"]


def test_no_put_outlasts_what_its_caller_showed(
    serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(tokens, "SKEW", 0.1)
    server = serve(**people.settings)
    credentials = people.credentials("worker").for_tenant(people.sign("acme", ttl=2.0))
    with RemoteStore(server.address, credentials=credentials, transports=BULK) as tenant:
        known(tenant)
        begun = time.monotonic()
        put = tenant.put(KEYS.fingerprint, plans_of(BLOCKS), timeout=20)
        eventually(lambda: not server.calls.used)
        assert time.monotonic() - begun < 2.0 + 0.1 + 1
        with pytest.raises(DeadlineExceeded):
            put.commit()
        put.abort()
        assert not calls
        with pytest.raises(Unauthenticated):
            tenant.put(KEYS.fingerprint, plans_of(BLOCKS))


def test_a_server_that_ends_reserves_nothing_and_lets_puts_finish(
    server: CacheStoreServer, bulk: RemoteStore, calls: list[str]
) -> None:
    with bulk.put(KEYS.fingerprint, plans_of(BLOCKS)), bulk.put(OTHER.fingerprint, plans_of(OTHERS)):
        assert len(calls) == 2
    with bulk.put(KEYS.fingerprint, plans_of(BLOCKS)) as put:
        begun = time.monotonic()
        closing = threading.Thread(target=server.close, args=(5.0,))
        closing.start()
        eventually(lambda: server.drain.begun)
        with pytest.raises(Unavailable, match="draining"):
            bulk.put(OTHER.fingerprint, plans_of(OTHERS))
        write_blocks(put, BLOCKS)
        put.commit()
        assert {answer.status for answer in put.answers} == {PutStatus.STORED}
    closing.join(10)
    assert time.monotonic() - begun < 5 and len(calls) == 2


@pytest.mark.parametrize("late", [0.0, 0.7])
def test_an_abort_from_elsewhere_is_told(bulk: RemoteStore, tiered: Any, calls: list[str], late: float) -> None:
    put = known(bulk).put(KEYS.fingerprint, plans_of(BLOCKS))
    put.write(0, 0, BLOCKS[0].data[0])
    assert bulk.abort(next(iter(tiered.namespace("default").puts))) == 2
    # by then the store has ended the connection too
    time.sleep(late)
    with pytest.raises(Aborted):
        put.write(1, 0, BLOCKS[1].data[0])
        put.commit()
    put.abort()
    assert not calls
    put_blocks(bulk, KEYS.fingerprint, BLOCKS)
    assert bulk.lookup(KEYS).ready == 2


def test_whoever_is_held_up_still_tells_why_and_hears_it(
    bulk: RemoteStore, tiered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with too much to do a thread may wait for its turn at any place."""

    def late(method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            time.sleep(0.3)
            return method(*arguments)

        return called

    monkeypatch.setattr(receiving, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(reserving, "refuse", late(reserving.refuse))
    put = known(bulk).put(KEYS.fingerprint, plans_of(BLOCKS))
    monkeypatch.setattr(sink, "answered", late(sink.answered))
    bulk.abort(next(iter(tiered.namespace("default").puts)))
    time.sleep(0.7)
    with pytest.raises(Aborted):
        put.write(0, 0, BLOCKS[0].data[0])
        put.write(1, 0, BLOCKS[1].data[0])
        put.commit()
    put.abort()


def test_an_abort_leaves_the_connection_for_the_next(bulk: RemoteStore, calls: list[str]) -> None:
    known(bulk)
    for _ in range(3):
        with bulk.put(KEYS.fingerprint, plans_of(BLOCKS)) as put:
            put.write(0, 0, BLOCKS[0].data[0])
        assert bulk.lookup(KEYS).writing == 0
    put_blocks(bulk, KEYS.fingerprint, BLOCKS)
    assert bulk.lookup(KEYS).ready == 2 and not calls


@pytest.mark.parametrize(
    ("stall", "seconds", "error"), [(0.5, 30.0, Aborted), (10.0, 0.5, DeadlineExceeded)], ids=["stall", "deadline"]
)
def test_a_writer_that_says_nothing(
    serve: Serve, tiered: Any, stall: float, seconds: float, error: type[CacheStoreError]
) -> None:
    server = serve(stall=stall)
    with RemoteStore(server.address, transports=BULK) as store:
        put = known(store).put(KEYS.fingerprint, plans_of(BLOCKS), timeout=seconds)
        begun = time.monotonic()
        eventually(lambda: not (server.calls.used or tiered.memory.usage().used))
        assert time.monotonic() - begun < 0.5 + 1
        with pytest.raises(error):
            write_blocks(put, BLOCKS)
            put.commit()
        put.abort()


def test_what_a_store_cannot_keep_for_good(server: CacheStoreServer, bulk: RemoteStore, calls: list[str]) -> None:
    known(bulk)
    with RemoteStore(server.address, transports=("stream",)) as stream, pytest.raises(CacheStoreError) as there:
        stream.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE)
    with pytest.raises(there.type, match=re.escape(str(there.value))):
        bulk.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE)
    assert len(calls) == 1


def test_a_put_counts_as_a_call_of_its_caller(serve: Serve, people: Any) -> None:
    server = serve(**people.settings, max_concurrent=4)
    alice, bob = (
        RemoteStore(server.address, transports=BULK, credentials=people.credentials(name)) for name in ("alice", "bob")
    )
    with alice, bob:
        for store in (alice, bob):
            known(store)
        with alice.put(KEYS.fingerprint, plans_of(BLOCKS)), alice.put(OTHER.fingerprint, plans_of(OTHERS)):
            assert server.calls.used == 2
            with pytest.raises(Overloaded, match="all that one caller may"):
                alice.lookup(KEYS)
            put_blocks(bob, KEYS.fingerprint, BLOCKS)
        eventually(lambda: not server.calls.used)
        with server.calls.hold(4), pytest.raises(Overloaded):
            alice.put(KEYS.fingerprint, plans_of(BLOCKS))
        put_blocks(known(alice), KEYS.fingerprint, BLOCKS)
        eventually(lambda: not server.bytes_in_flight.used)
        with server.bytes_in_flight.hold(server.bytes_in_flight.limit), pytest.raises(Overloaded):
            alice.put(OTHER.fingerprint, plans_of(OTHERS))
