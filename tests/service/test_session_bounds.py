"""What sessions may take together: tickets, places, bytes that are on their way, and what of it one caller may have."""

import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.errors import Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service import convert, tickets
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared import messages
from cachestore.service.shared import server as session_server
from cachestore.service.shared.client import SharedSession
from cachestore.service.tickets import Tickets
from cachestore.testing import plans_of, random_prompt, small_spec
from cachestore.wire import session_pb2, store_pb2
from tests.service.sessions import SOON, Attach, greeted, holds, lookup

Serve = Callable[..., CacheStoreServer]

KEYS, BLOCKS = random_prompt(small_spec(), 1)
OTHER, OTHERS = random_prompt(small_spec(), 1, seed=7)
ALICE, BOB = Identity("alice", "a", Role.writer), Identity("bob", "b", Role.writer)
LONG = Chain(bytes(32), tuple(os.urandom(32) for _ in range(50_000)))


def begun(server: CacheStoreServer, identity: Identity) -> SharedSession:
    """A session of this caller."""
    path, ticket = server.sessions.attach(identity, False)
    session = SharedSession(path, {}, lambda: True)
    session.open(ticket, SOON)
    return session


def asked(chain: Chain) -> bytes:
    """A message that looks for this chain."""
    lookup = store_pb2.LookupRequest(chain=convert.chain_message(chain))
    return session_pb2.SessionRequest(lookup=lookup).SerializeToString()


def test_tickets_that_nobody_shows_are_let_go(
    monkeypatch: pytest.MonkeyPatch, serve: Serve, eventually: Callable[..., None]
) -> None:
    monkeypatch.setattr(tickets, "TICKET_SECONDS", 0.05)
    monkeypatch.setattr(session_server, "TICKET_SECONDS", 0.05)
    server = serve()
    for _ in range(100):
        server.sessions.attach(ALICE, False)
    eventually(lambda: not len(server.sessions.tickets))


def test_no_more_tickets_are_out_than_so_many() -> None:
    many: Tickets[int] = Tickets()
    issued = [many.issue(number) for number in range(tickets.MOST_TICKETS + 3)]
    assert len(many) == tickets.MOST_TICKETS
    assert [many.redeem(ticket) for ticket in issued[:4]] == [None, None, None, 3]


def test_requests_of_a_session_count_as_their_callers(serve: Serve, people: Any) -> None:
    server = serve(**people.settings, max_concurrent=4)
    alice, bob = begun(server, ALICE), begun(server, BOB)
    with RemoteStore(server.address, credentials=people.credentials("alice"), transports=("stream",)) as remote:
        # calls over gRPC, which count with them
        with remote.put(KEYS.fingerprint, plans_of(BLOCKS)), remote.put(OTHER.fingerprint, plans_of(OTHERS)):
            with pytest.raises(Overloaded, match="all that one caller may"):
                lookup(alice, KEYS)
            assert lookup(bob, KEYS) == 0
        holds(lambda: not server.calls.used)
        assert lookup(alice, KEYS) == 0
    for session in (alice, bob):
        session.close()


def test_nobody_holds_more_than_half_of_the_sessions(
    serve: Serve, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_server, "MOST_SESSIONS", 4)
    server = serve(**people.settings)
    sessions = [begun(server, ALICE), begun(server, ALICE)]
    with pytest.raises(Overloaded, match="all that one caller may"):
        begun(server, ALICE)
    sessions.append(begun(server, BOB))
    for session in sessions:
        session.close()


def test_bytes_count_from_when_their_length_is_known(serve: Serve) -> None:
    server = serve()
    message = asked(LONG)
    with greeted(server) as connection:
        connection.sendall(struct.pack("<I", len(message)) + message[: len(message) // 2])
        holds(lambda: server.bytes_in_flight.used == len(message))
        connection.sendall(message[len(message) // 2 :])
        connection.settimeout(SOON)
        assert messages.receive(connection, SOON)
    holds(lambda: not server.bytes_in_flight.used)


def test_a_message_for_which_there_is_no_room_is_refused_and_the_session_goes_on(serve: Serve, attach: Attach) -> None:
    server = serve(in_flight_bytes=8 << 20)
    session = begun(server, ALICE)
    with server.bytes_in_flight.hold(7 << 20), pytest.raises(Overloaded, match="bytes in flight"):
        lookup(session, LONG)
    assert lookup(session, LONG) == lookup(session, KEYS) == 0
    session.close()


def test_whoever_has_shown_no_ticket_sends_little(server: CacheStoreServer) -> None:
    path, _ = server.sessions.attach(ALICE, False)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.settimeout(SOON)
        begun_at = time.monotonic()
        connection.sendall(struct.pack("<I", 1 << 20) + bytes(100))
        assert connection.recv(1) == b"" and time.monotonic() - begun_at < messages.STALL
    holds(lambda: not total(server.figures(), "sessions"))
