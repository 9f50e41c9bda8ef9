"""Whom the bulk port serves: tickets, connections, and what was agreed on and never fetched."""

import socket
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

import grpc
import pytest

from cachestore.deadline import Deadline
from cachestore.service import convert, tickets
from cachestore.service.bulk import lines as bulk_lines
from cachestore.service.bulk import server as bulk_server
from cachestore.service.bulk.format import BLOCK, LAST, REQUEST, TICKET
from cachestore.service.bulk.line import PlainLine
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.stream import frames
from cachestore.store.base import put_blocks
from cachestore.testing import plans_of, random_prompt, small_spec
from cachestore.wire import store_pb2 as wire
from tests.service.bulk_lines import BULK, LARGE, Raw, Serve, eventually, figure, reserved


def test_a_ticket_is_good_once(bulk: RemoteStore, raw: Raw, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    put_blocks(bulk, keys.fingerprint, blocks)
    ticket = raw.ticket(keys)
    assert len(ticket) == 32
    assert BLOCK.unpack(raw.begin(ticket).take(BLOCK.size, Deadline.after(5)))[0] == 0
    assert raw.ended(raw.begin(ticket))
    eventually(lambda: figure(server, "bulk_refused", reason="ticket") == 1)


def test_a_ticket_that_was_guessed_or_is_late(
    raw: Raw, server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, _ = random_prompt(small_spec(), 1)
    assert raw.ended(raw.begin(bytes(32)))
    monkeypatch.setattr(tickets, "TICKET_SECONDS", 0.05)
    ticket = raw.ticket(keys)
    time.sleep(0.1)
    assert raw.ended(raw.begin(ticket))
    monkeypatch.undo()
    # an empty read is one: nothing is there, and that is said
    assert BLOCK.unpack(raw.begin(raw.ticket(keys)).take(BLOCK.size, Deadline.after(5)))[1] == LAST
    assert figure(server, "bulk_refused", reason="ticket") == 2


def test_a_connection_is_one_callers(serve: Serve, people: Any) -> None:
    server = serve(**people.settings)
    keys, _ = random_prompt(small_spec(), 1)
    raw = Raw(server)
    mine, theirs = (raw.ticket(keys, authorization=f"Bearer {people.tokens[who]}") for who in ("alice", "bob"))
    line = raw.begin(mine)
    assert BLOCK.unpack(line.take(BLOCK.size, Deadline.after(5)))[1] == LAST
    assert raw.ended(raw.begin(theirs, line))
    line.close()


def test_no_ticket_where_others_could_see_it(server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for peer, offered in (
        ("ipv4:127.0.0.1:5", True),
        ("ipv6:%5B::1%5D:5", True),
        ("ipv4:10.0.0.1:5", False),
        ("ipv6:%5Bfe80::1%5D:5", False),
        ("unix:", False),
        ("", False),
    ):
        assert bulk_server.is_here(peer) is offered, peer
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        monkeypatch.setattr(bulk_server, "is_here", lambda peer: False)
        keys, blocks = random_prompt(small_spec(), 2)
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert len(list(reading)) == 2
    assert figure(server, "bulk_transfers") == 0
    lines = bulk_lines.Lines(RemoteStore("10.0.0.1:7420")._connection)
    assert not lines.open


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(64),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        REQUEST.pack(TICKET, 1 << 31, bytes(32)),
        REQUEST.pack(b"KVRL", 1 << 31, bytes(32)),
        bytes(REQUEST.size),
        b"",
        b"KV",
    ],
)
def test_whoever_shows_no_ticket_is_closed(
    raw: Raw, server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(bulk_server, "TICKET_SECONDS", 0.2)
    line = raw.connect()
    with suppress(OSError):
        line.send(said, Deadline.after(5))
    assert raw.ended(line)
    eventually(lambda: not server.bulk.guests)


def test_a_reader_that_takes_nothing_is_cut_off(serve: Serve) -> None:
    server = serve(stall=1.0)
    keys, blocks = random_prompt(LARGE, 12)
    raw = Raw(server)
    with RemoteStore(server.address, transports=BULK) as store:
        put_blocks(store, keys.fingerprint, blocks)
        # a lease that ended first would end the read in peace
        line = raw.begin(raw.ticket(keys, lease_ms=60_000))
        for _ in range(3):
            with store.read(keys) as reading:
                assert len(list(reading)) == 12
        eventually(lambda: figure(server, "bulk_broken") and not server.bytes_in_flight.used)
        # what was on its way may still come
        with pytest.raises(OSError):
            line.take(12 * (2 << 20), Deadline.after(5))
    line.close()


def test_more_connections_than_are_served(serve: Serve) -> None:
    server = serve(max_concurrent=4)
    keys, blocks = random_prompt(small_spec(), 2)
    raw = Raw(server)
    with RemoteStore(server.address, transports=BULK) as store:
        put_blocks(store, keys.fingerprint, blocks)
        silent = [raw.connect() for _ in range(12)]
        eventually(lambda: figure(server, "bulk_refused", reason="idle") >= 8)
        assert len(server.bulk.guests) <= 4
        with store.read(keys) as reading:
            assert len(list(reading)) == 2
        assert not silent[-1].readable(0), "those who came last are still heard"
    for line in raw.lines:
        line.close()


def test_a_server_that_closes_ends_what_is_under_way(serve: Serve) -> None:
    server = serve()
    keys, blocks = random_prompt(LARGE, 8)
    other_keys, others = random_prompt(LARGE, 1, seed=9)
    raw = Raw(server)
    before = set(threading.enumerate())
    with RemoteStore(server.address, transports=BULK) as store:
        put_blocks(store, keys.fingerprint, blocks)
        reading, writing = raw.begin(raw.ticket(keys)), reserved(server, raw, others, other_keys)
        begun = time.monotonic()
        server.close(0.2)
        assert time.monotonic() - begun < 0.2 + bulk_server.CUT_SECONDS + 1
        writing[1]()
    eventually(lambda: server.bytes_in_flight.used == 0)
    reading.close()
    writing[0].close()
    eventually(lambda: not {one for one in set(threading.enumerate()) - before if one.name == "cachestore-bulk"})


def test_a_connection_for_which_there_is_no_thread_is_refused(
    server: CacheStoreServer, bulk: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "cachestore-bulk":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with socket.create_connection(("127.0.0.1", server.bulk.port), 5) as connection:
            assert connection.recv(1) == b""
    eventually(lambda: figure(server, "bulk_refused", reason="threads") and not server.bulk.guests)
    keys, blocks = random_prompt(small_spec(), 1)
    put_blocks(bulk, keys.fingerprint, blocks)
    assert figure(server, "bulk_transfers")


def test_what_was_agreed_and_never_fetched_is_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "TICKET_SECONDS", 0.05)
    monkeypatch.setattr(bulk_server, "TICKET_SECONDS", 0.05)
    server = serve()
    keys, blocks = random_prompt(small_spec(), 1)
    with RemoteStore(server.address, transports=("stream",)) as store:
        put_blocks(store, keys.fingerprint, blocks)
    offer, agreed = server.bulk.offer_read, list[weakref.ref[object]]()

    def offered(context: Any, local: Any, read: Any) -> wire.BulkOffer | None:
        agreed.append(weakref.ref(read.sealed))
        return offer(context, local, read)

    monkeypatch.setattr(server.bulk, "offer_read", offered)
    with grpc.insecure_channel(server.address) as channel:
        read = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, frames.read_response)
        (granted,) = read(wire.ReadRequest(chain=convert.chain_message(keys), bulk=True), timeout=5)
    assert granted.granted.bulk.ticket
    eventually(lambda: agreed[0]() is None)


def test_a_read_whose_call_is_over_still_counts_as_its_callers(serve: Serve, people: Any) -> None:
    """The share of calls bounds what one caller moves, whichever way: a put over its stream leaves no room here."""
    server = serve(**people.settings, max_concurrent=4)
    keys, blocks = random_prompt(small_spec(), 1)
    alice, bob = (people.credentials(name) for name in ("alice", "bob"))
    raw = Raw(server)

    def first(name: str) -> PlainLine:
        return raw.begin(raw.ticket(keys, authorization=f"Bearer {people.tokens[name]}"))

    with RemoteStore(server.address, credentials=alice, transports=("stream",)) as store:
        with store.put(keys.fingerprint, plans_of(blocks)):
            assert BLOCK.unpack(first("alice").take(BLOCK.size, Deadline.after(5)))[1] == LAST
            shown = raw.ticket(keys, authorization=f"Bearer {people.tokens['alice']}")
            with store.put(keys.fingerprint, plans_of(random_prompt(small_spec(), 1, seed=2)[1])):
                assert raw.ended(raw.begin(shown))
                assert BLOCK.unpack(first("bob").take(BLOCK.size, Deadline.after(5)))[1] == LAST
    eventually(lambda: not server.calls.used)
    with RemoteStore(server.address, credentials=bob, transports=BULK) as store:
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert len(list(reading)) == 1
    for line in raw.lines:
        line.close()
