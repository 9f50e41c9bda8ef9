"""What anybody can send in a session, or leave unsent: it harms nobody else."""

import os
import random
import socket
import struct
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from cachestore.errors import (
    DeadlineExceeded,
    Overloaded,
)
from cachestore.hashing import Chain
from cachestore.service import convert, convert_put
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.convert_put import Reservation
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared import messages as session_socket
from cachestore.service.shared.client import Lost, SharedSession
from cachestore.service.shared.messages import receive, receive_with_descriptors, send
from cachestore.store.base import Durability, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec
from cachestore.wire import session_pb2, store_pb2
from tests.service.sessions import SOON, WRITER, Attach, connected, greeted, holds, lookup


def test_a_service_that_is_full_says_so(serve: Callable[..., CacheStoreServer]) -> None:
    server = serve(max_concurrent=1)
    path, ticket = server.sessions.attach(WRITER, True)
    session = SharedSession(path, {}, lambda: True)
    session.open(ticket, SOON)
    with server.calls.hold(1), pytest.raises(Overloaded):
        lookup(session, random_prompt(small_spec(), 1)[0])
    assert lookup(session, random_prompt(small_spec(), 1)[0]) == 0
    session.close()


GARBAGE = {
    "nothing": b"",
    "too long": struct.pack("<I", 1 << 30) + b"x",
    "no message": struct.pack("<I", 3) + b"\xff\xff\xff",
    "two at once": struct.pack("<I", 1) + b"\0" * 20,
}


@pytest.mark.parametrize("wrong", GARBAGE)
def test_garbage_ends_its_session_alone(server: CacheStoreServer, attach: Attach, wrong: str) -> None:
    other = attach()
    for begin in (connected, greeted):
        with begin(server) as connection:
            connection.sendall(GARBAGE[wrong])
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(SOON)
            while connection.recv(1 << 16):
                pass
    assert lookup(other, random_prompt(small_spec(), 1)[0]) == 0


def test_who_stalls_within_a_message_is_cut_off(server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_socket, "STALL", 0.1)
    with greeted(server) as connection:
        connection.settimeout(SOON)
        connection.sendall(struct.pack("<I", 100) + b"half")
        assert connection.recv(1) == b""
    with greeted(server) as connection:
        # asks, and takes no answer
        request = session_pb2.SessionRequest(lookup=store_pb2.LookupRequest()).SerializeToString()
        data = struct.pack("<I", len(request)) + request
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1.0)
        try:
            for _ in range(100_000):
                connection.sendall(data)
        except OSError:
            return
    pytest.fail("it was never cut off")


def test_random_requests_harm_nobody(server: CacheStoreServer, tiered: TieredStore, attach: Attach) -> None:
    chance = random.Random(1)
    keys, blocks = random_prompt(small_spec(), 2)
    store = tiered.namespace("default")
    put_blocks(store, keys.fingerprint, blocks)
    plans = tuple(plans_of(random_prompt(small_spec(), 2, 3)[1]))
    reservation = Reservation(keys.fingerprint, plans, Durability.CACHE, None)
    chain = convert.chain_message(keys)
    begun = [
        session_pb2.SessionRequest(lookup=store_pb2.LookupRequest(chain=chain)),
        session_pb2.SessionRequest(read=store_pb2.ReadRequest(chain=chain, lease_ms=100)),
        session_pb2.SessionRequest(reserve=convert_put.reserve_message(reservation)),
        session_pb2.SessionRequest(commit=session_pb2.SharedCommit(put=b"x" * 16, blocks=[0, 1])),
        session_pb2.SessionRequest(abort=store_pb2.AbortRequest(put=b"x" * 16)),
        session_pb2.SessionRequest(release=store_pb2.ReleaseRequest(lease=b"x" * 16)),
    ]
    connection = greeted(server)
    for _ in range(400):
        data = bytearray(chance.choice(begun).SerializeToString())
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        send(connection, bytes(data[: chance.choice((len(data), chance.randrange(len(data) + 1)))]))
        try:
            answer, descriptors = receive_with_descriptors(connection, SOON)
        except OSError:
            answer, descriptors = None, []
        for descriptor in descriptors:
            os.close(descriptor)
        if answer is None:
            connection.close()
            connection = greeted(server)
    connection.close()
    with tiered.index.changed:
        for holding in list(tiered.leases._open.values()):
            tiered.leases.end(holding)
    holds(lambda: store.puts_open == 0)
    assert lookup(attach(), keys) == 2
    with store.read(keys) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))
    check_sums(store.stats())


def test_an_identity_that_ends_takes_its_session_along(server: CacheStoreServer, tiered: TieredStore) -> None:
    """However busy it is: what comes right behind an answer is not answered any more."""
    keys, _ = random_prompt(small_spec(), 1)
    request = session_pb2.SessionRequest(lookup=store_pb2.LookupRequest(chain=convert.chain_message(keys)))
    ends = time.time() + 1.5
    with greeted(server, Identity("w", "default", Role.writer, expires=ends)) as connection:
        with tiered.index.changed:
            send(connection, request.SerializeToString())
            holds(lambda: server.calls.used == 1)
            time.sleep(max(0.0, ends + 0.1 - time.time()))
            send(connection, request.SerializeToString())
        assert session_pb2.SessionAnswer.FromString(receive(connection, SOON) or b"").HasField("lookup")
        connection.settimeout(SOON)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            return  # it ended before it was read to its end


@pytest.mark.parametrize("asked", ["a message that the socket does not take", "half an answer", "a small message"])
def test_a_server_that_does_not_take_or_answer_ends_the_request_in_time(asked: str) -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path := f"{folder}/session")
        listener.listen()
        session = SharedSession(path, {}, lambda: pytest.fail("there is no time to find that out"))
        with ThreadPoolExecutor(1) as thread:
            opened = thread.submit(session.open, bytes(32), SOON)
            connection, _ = listener.accept()
            with connection:
                assert receive(connection, SOON)
                welcome = session_pb2.SessionAnswer(welcome=session_pb2.Welcome(namespace_id=bytes(32)))
                send(connection, welcome.SerializeToString())
                opened.result(SOON)
                keys = Chain(bytes(32), tuple(os.urandom(32) for _ in range(60_000 if "socket" in asked else 1)))
                if "half" in asked:
                    # the beginning of an answer, and no more
                    connection.sendall(struct.pack("<I", 100) + b"half")
                begun = time.monotonic()
                with pytest.raises((DeadlineExceeded, Lost)):
                    request = store_pb2.LookupRequest(chain=convert.chain_message(keys))
                    session.ask(session_pb2.SessionRequest(lookup=request), 1.7)
                assert time.monotonic() - begun < 1.7 + 1 and session.lost
