"""Sessions of shared memory from the outside: who may, what they are given, and what anybody can send."""

import fcntl
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest

from cachestore.codecs import create
from cachestore.errors import (
    CacheStoreError,
    DeadlineExceeded,
    InvalidArgument,
    LeaseExpired,
    Overloaded,
    PermissionDenied,
)
from cachestore.eviction.lru import Lru
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.plane_table import TABLE
from cachestore.service import convert, convert_put, tickets
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.client import RemoteStore
from cachestore.service.convert_put import Reservation
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared import messages as session_socket
from cachestore.service.shared.client import Lost, Mapped, SharedSession
from cachestore.service.shared.messages import receive, receive_with_descriptors, send
from cachestore.service.shared.place import session_place
from cachestore.store.adopting import Front
from cachestore.store.base import Durability, PutStatus, put_blocks
from cachestore.store.laying import Laying, Layout
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums, plans_of, random_prompt, same, small_spec
from cachestore.tiers.cpu import Cpu, CpuTier
from cachestore.wire import session_pb2, store_pb2

WRITER = Identity("w", "default", Role.writer)
SOON = 10.0


def holds(condition: Callable[[], bool]) -> None:
    """Waits until it does."""
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


Attach = Callable[..., SharedSession]


@pytest.fixture
def attach(server: CacheStoreServer) -> Iterator[Attach]:
    """Begins sessions as the client does, for any identity."""
    sessions: list[SharedSession] = []

    def begin(identity: Identity = WRITER, *, writer: bool = True, known: Any = None) -> SharedSession:
        path, ticket = server.sessions.attach(identity, writer)
        known = WeakValueDictionary[int, Mapped]() if known is None else known
        sessions.append(SharedSession(path, known, lambda: True))
        sessions[-1].open(ticket, SOON)
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def connected(server: CacheStoreServer) -> socket.socket:
    """A connection that has shown nothing yet."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(server.sessions.attach(WRITER, True)[0])
    return connection


def greeted(server: CacheStoreServer, identity: Identity = WRITER) -> socket.socket:
    """A connection on which the session has begun."""
    path, ticket = server.sessions.attach(identity, True)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    send(connection, session_pb2.SessionRequest(hello=session_pb2.Hello(ticket=ticket)).SerializeToString())
    assert receive(connection, SOON)
    return connection


def reserve(session: SharedSession, keys: Chain, blocks: Any, timeout: float = SOON) -> session_pb2.SessionAnswer:
    """Reserves these blocks."""
    reservation = Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None)
    request = session_pb2.SessionRequest(reserve=convert_put.reserve_message(reservation))
    return session.ask(request, timeout)


def commit(session: SharedSession, put: bytes, *blocks: int) -> list[PutStatus]:
    """Commits these blocks of a put; what became of them."""
    message = session_pb2.SharedCommit(put=put, blocks=blocks)
    answer = session.ask(session_pb2.SessionRequest(commit=message), SOON)
    return [one.status for one in convert_put.answers(answer.write.answers)]


def lookup(session: SharedSession, keys: Chain) -> int:
    """How long the prefix is that this session sees."""
    request = store_pb2.LookupRequest(chain=convert.chain_message(keys))
    return session.ask(session_pb2.SessionRequest(lookup=request), SOON).lookup.ready


def read(session: SharedSession, keys: Chain) -> session_pb2.SessionAnswer:
    """Reads and keeps the lease."""
    request = store_pb2.ReadRequest(chain=convert.chain_message(keys))
    return session.ask(session_pb2.SessionRequest(read=request), SOON)


def used(tiered: TieredStore) -> int:
    """Bytes given out in slots."""
    with tiered.index.changed:
        return tiered.memory.usage().used


@pytest.mark.parametrize("wrong", ["unknown", "twice", "late"])
def test_a_ticket_holds_once_and_soon(server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    if wrong == "late":
        monkeypatch.setattr(tickets, "TICKET_SECONDS", 0.01)
    path, ticket = server.sessions.attach(WRITER, True)
    session = SharedSession(path, {}, lambda: True)
    if wrong == "unknown":
        ticket = os.urandom(32)
    if wrong == "twice":
        session.open(ticket, SOON)
        session.close()
    if wrong == "late":
        time.sleep(0.05)
    with pytest.raises(PermissionDenied, match="ticket"):
        session.open(ticket, SOON)
    with pytest.raises(Lost):
        session.ask(session_pb2.SessionRequest(), 1.0)


def test_namespaces_see_nothing_of_each_other(attach: Attach, tiered: TieredStore) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    put_blocks(tiered.namespace("a"), keys.fingerprint, blocks)
    put_blocks(tiered.namespace("b"), keys.fingerprint, blocks)
    known: WeakValueDictionary[int, Mapped] = WeakValueDictionary()
    first = attach(Identity("x", "a", Role.writer), known=known)
    other = attach(Identity("y", "c", Role.admin), known=known)
    answer = read(first, keys)
    assert len(answer.places.slabs) == 2 and len(known) == 1
    assert lookup(other, keys) == 0 and len(read(other, keys).places.slabs) == 0 and len(known) == 1
    # nor is a lease or a put of one of use to the other
    for request in (
        session_pb2.SessionRequest(release=store_pb2.ReleaseRequest(lease=answer.granted.lease)),
        session_pb2.SessionRequest(
            read=store_pb2.ReadRequest(chain=convert.chain_message(keys), lease=answer.granted.lease)
        ),
    ):
        with pytest.raises(LeaseExpired):
            other.ask(request, SOON)
    put = reserve(first, *random_prompt(small_spec(), 1, seed=5))
    with pytest.raises(InvalidArgument, match="put"):
        commit(other, put.write.put, 0)
    first.ask(session_pb2.SessionRequest(release=store_pb2.ReleaseRequest(lease=answer.granted.lease)), SOON)


@pytest.mark.parametrize("kind", ["reserve", "commit", "abort"])
def test_a_reader_cannot_write(attach: Attach, server: CacheStoreServer, kind: str) -> None:
    with pytest.raises(PermissionDenied, match="writer"):
        server.sessions.attach(Identity("r", "default", Role.reader), True)
    reader = attach(Identity("r", "default", Role.reader), writer=False)
    request = session_pb2.SessionRequest()
    getattr(request, kind).SetInParent()
    with pytest.raises(PermissionDenied, match="writer"):
        reader.ask(request, SOON)
    assert lookup(reader, random_prompt(small_spec(), 1)[0]) == 0


def test_a_writer_that_attached_to_read_only_reads(attach: Attach) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    with pytest.raises(PermissionDenied, match="attach as a writer"):
        reserve(attach(writer=False), keys, blocks)


def test_what_a_reader_gets_can_only_be_read(server: CacheStoreServer, tiered: TieredStore, attach: Attach) -> None:
    keys, blocks = random_prompt(small_spec(), 2)
    with RemoteStore(server.address, transports=("shared",)) as writer:
        put_blocks(writer, keys.fingerprint, blocks)
        # while the one who wrote it is still there, and may write further blocks
        connection = greeted(server)
        request = store_pb2.ReadRequest(chain=convert.chain_message(keys))
        send(connection, session_pb2.SessionRequest(read=request).SerializeToString())
        data, descriptors = receive_with_descriptors(connection, SOON)
        answer = session_pb2.SessionAnswer.FromString(data or b"")
        slab, descriptor = answer.slabs[0], descriptors[0]
        try:
            assert not slab.writable and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            mmap.mmap(descriptor, slab.bytes, prot=mmap.PROT_READ).close()
            with pytest.raises(PermissionError):
                mmap.mmap(descriptor, slab.bytes)
            with pytest.raises(OSError):
                os.ftruncate(descriptor, 0)
            # not even by who may open it again: this very user, or root
            os.fchmod(descriptor, 0o700)
            again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
            try:
                with pytest.raises(PermissionError):
                    mmap.mmap(again, slab.bytes)
                with pytest.raises(PermissionError):
                    os.pwrite(again, b"x", 0)
            finally:
                os.close(again)
        finally:
            os.close(descriptor)
            connection.close()
        tiered.namespace("default").release(
            convert.lease(store_pb2.LeaseResponse(lease=answer.granted.lease, blocks=2))
        )
        assert put_blocks(writer, keys.fingerprint, random_prompt(small_spec(), 3)[1])[2].status is PutStatus.STORED


def test_slabs_that_are_given_up_are_unmapped() -> None:
    memory = CpuTier(1 << 20, 1 << 20)
    keys, blocks = random_prompt(small_spec(), 2)
    with (
        TieredStore(memory, (), create("raw"), Lru()) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
    ):

        def figures() -> tuple[int, int]:
            found = server.figures()
            return total(found, "sessions"), total(found, "sessions_kept_bytes")

        known: WeakValueDictionary[int, Mapped] = WeakValueDictionary()
        sessions = []
        put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
        for _ in range(2):
            path, ticket = server.sessions.attach(WRITER, False)
            sessions.append(session := SharedSession(path, known, lambda: True))
            session.open(ticket, SOON)
            answer = read(session, keys)
            assert len(answer.slabs) == len(known) == 1
            session.ask(session_pb2.SessionRequest(release=store_pb2.ReleaseRequest(lease=answer.granted.lease)), SOON)
        assert figures() == (2, 0)
        assert tiered.namespace("default").delete(keys) == 2
        # the whole memory is one slab, and now another's
        put_blocks(tiered.namespace("other"), keys.fingerprint, blocks)
        # once, however many sessions keep it
        size = answer.slabs[0].bytes
        assert figures() == (2, size)
        assert lookup(sessions[0], keys) == 0
        assert len(known) == 1 and figures() == (2, size)
        assert lookup(sessions[1], keys) == 0
        assert len(known) == 0 and figures() == (2, 0)
        for session in sessions:
            session.close()
        holds(lambda: figures() == (0, 0))


def test_many_slabs_are_told_of_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = CpuTier(64 << 20, 4096)
    keys, blocks = random_prompt(small_spec(), 150)
    with (
        TieredStore(memory, (), create("raw"), Lru()) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
        RemoteStore(server.address, transports=("shared",)) as store,
    ):
        put_blocks(store, keys.fingerprint, blocks)
        assert len(memory.slabs(tiered.namespace("default").namespace)) > 2 * session_socket.MOST_DESCRIPTORS
        with store.read(keys) as reading:
            assert all(map(same, (block for block, _ in reading), blocks))


def rows(answer: session_pb2.SessionAnswer, session: SharedSession, blocks: Any) -> np.ndarray[Any, Any]:
    """A sound plane table at the front of the first slot, of planes that are zero."""
    slot = session.places(answer.places)[0].bytes
    layout = Layout(blocks[0].planes)
    laying = Laying(layout, slot[layout.start :])
    flat = np.concatenate(blocks[0].data)
    laying.append_run(layout.run(0, 0, flat), flat)
    Front(slot, layout.start).laid(range(len(layout.planes)), laying.table(), 1)
    return slot[: len(layout.planes) * TABLE.itemsize].view(TABLE)


FORGED: dict[str, Callable[[Any], None]] = {
    "another slot": lambda table: table["slot"].__setitem__(0, 7),
    "not laid": lambda table: table["raw_bytes"].__setitem__(0, 0),
    "outside": lambda table: table["offset"].__setitem__(0, 1 << 30),
    "wrapping": lambda table: table["offset"].__setitem__(0, (1 << 64) - 64),
    "beyond the end": lambda table: table["offset"].__setitem__(0, int(table["offset"].max()) + 64 * 1024),
    "overlapping": lambda table: table["offset"].__setitem__(1, table["offset"][0]),
    "not aligned": lambda table: table["offset"].__setitem__(7, table["offset"][7] + 8),
    "nothing stored": lambda table: table["stored_bytes"].__setitem__(0, 0),
    "more stored": lambda table: table["stored_bytes"].__setitem__(0, table["raw_bytes"][0] + 1),
    "unknown codec": lambda table: table["codec"].__setitem__(0, 99),
    "raw but short": lambda table: table["stored_bytes"].__setitem__(0, 8),
    "raw but two checksums": lambda table: table["raw_checksum"].__setitem__(0, 1),
    "padding": lambda table: table["zero"].__setitem__(0, 1),
    "nothing": lambda table: table.view(np.uint8).fill(0),
    "noise": lambda table: table.view(np.uint8).fill(255),
}


@pytest.mark.parametrize("wrong", ["", *FORGED])
def test_a_forged_table_fails_its_block(attach: Attach, tiered: TieredStore, wrong: str) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks)
    table = rows(answer, session, blocks)
    if wrong:
        FORGED[wrong](table)
    expected = [PutStatus.FAILED if wrong else PutStatus.STORED]
    assert commit(session, answer.write.put, 0) == expected
    assert lookup(session, keys) == (not wrong)
    if wrong:
        assert used(tiered) == 0
    check_sums(tiered.namespace("default").stats())


def test_a_sealing_store_keeps_nothing_that_its_writer_can_reach(attach: Attach, tiered: TieredStore) -> None:
    tiered.sealed = True
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks)
    slot = session.places(answer.places)[0].bytes
    rows(answer, session, blocks)
    assert commit(session, answer.write.put, 0) == [PutStatus.STORED]
    slot[:] = 0xFF
    with tiered.namespace("default").read(keys) as reading:
        assert [same(block, blocks[0]) for block, _ in reading] == [True]
    tiered.check()
    others, theirs = random_prompt(small_spec(), 1, seed=9)
    answer = reserve(session, others, theirs)
    rows(answer, session, theirs)
    session.places(answer.places)[0].bytes[-1] ^= 1
    # what the memory holds is not what the table says
    assert commit(session, answer.write.put, 0) == [PutStatus.FAILED]
    assert lookup(session, others) == 0
    tiered.sealed = False


def test_a_slot_is_not_used_again_while_its_writer_may_write(attach: Attach, tiered: TieredStore) -> None:
    keys, blocks = random_prompt(small_spec(), 1)
    session = attach()
    answer = reserve(session, keys, blocks, timeout=0.2)
    store = tiered.namespace("default")
    held = used(tiered)
    holds(lambda: store.puts_open == 0)
    # its time is over: nobody sees it, others may put the same block, and its memory is still its writer's
    assert used(tiered) == held > 0 and store.lookup(keys).writing == 0
    put_blocks(store, keys.fingerprint, blocks)
    assert used(tiered) == 2 * held
    with pytest.raises(CacheStoreError):
        rows(answer, session, blocks)
        commit(session, answer.write.put, 0)
    holds(lambda: used(tiered) == held)
    answer = reserve(session, *random_prompt(small_spec(), 1, seed=3))
    store.abort(answer.write.put)
    assert used(tiered) == 2 * held
    session.close()
    holds(lambda: used(tiered) == held)
    check_sums(store.stats())


def test_one_put_at_a_time(attach: Attach) -> None:
    session = attach()
    reserve(session, *random_prompt(small_spec(), 1))
    with pytest.raises(InvalidArgument, match="one put open"):
        reserve(session, *random_prompt(small_spec(), 1, seed=2))


@pytest.mark.parametrize("what", ["write", "read"])
def test_a_killed_client_leaves_nothing(server: CacheStoreServer, tiered: TieredStore, what: str) -> None:
    keys, blocks = random_prompt(small_spec(), 8)
    store = tiered.namespace("default")
    if what == "read":
        put_blocks(store, keys.fingerprint, blocks)
    script = Path(__file__).with_name("shared_process.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), what, server.address, "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        before = used(tiered)
        assert (store.lookup(keys).ready, store.lookup(keys).writing) == ((3, 5) if what == "write" else (8, 0))
        client.send_signal(signal.SIGKILL)
        client.wait(SOON)
    if what == "write":
        holds(lambda: store.lookup(keys) == (3, store.lookup(keys).runs, 0) and used(tiered) < before)
        holds(lambda: tiered.memory.usage().used == sum(e.slot.size for e in tiered.index.everything()))
        with store.read(keys) as reading:
            assert all(map(same, (block for block, _ in reading), blocks))
        assert total(store.stats(), "put_aborted") == 5
        # what it left is the namespace's by now, and goes when it is empty
        assert store.delete(keys) == 3
        assert used(tiered) == 0
    else:
        with tiered.index.changed:
            (lease,) = tiered.leases._open
        store.renew(lease, 0.05)
        holds(lambda: not total(store.stats(), "leases_open"))
        assert total(store.stats(), "read_expired") == 8
    check_sums(store.stats())


def test_closing_the_server_ends_sessions_and_their_puts(tiered: TieredStore) -> None:
    server = CacheStoreServer(tiered, ServiceSettings(port=0))
    server.open()
    path, ticket = server.sessions.attach(WRITER, True)
    session = SharedSession(path, {}, lambda: True)
    session.open(ticket, SOON)
    reserve(session, *random_prompt(small_spec(), 2))
    assert used(tiered)
    server.close()
    assert used(tiered) == 0 and not Path(path).parent.exists()
    with pytest.raises(Lost):
        lookup(session, random_prompt(small_spec(), 1)[0])


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


def test_memory_of_writers_stays_within_the_cap() -> None:
    memory = Cpu(4 << 20).start()
    with (
        TieredStore(memory, (), create("raw"), Lru()) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
    ):
        stores = [RemoteStore(server.address, transports=("shared",)) for _ in range(4)]
        spec = small_spec(block_tokens=256)
        for number in range(40):
            store = stores[number % 4]
            store.open()
            keys, blocks = random_prompt(spec, 4, seed=number)
            answers = put_blocks(store, keys.fingerprint, blocks)
            assert [answer.status for answer in answers] == [PutStatus.STORED] * 4
            assert memory.taken <= memory.capacity
            with stores[(number + 1) % 4] as reader, reader.read(keys) as reading:
                assert all(map(same, (block for block, _ in reading), blocks))
        for store in stores:
            store.close()
        figures = tiered.namespace("default").stats()
        check_sums(figures)
        assert total(figures, "evicted") > 0
        tiered.check()


def test_what_a_killed_server_left_behind_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    # a path that is short enough for a socket
    monkeypatch.setenv("XDG_RUNTIME_DIR", (short := tempfile.mkdtemp(dir="/tmp")))
    try:
        left = session_place()
        os.close(left.lock)  # as the end of its process does
        foreign = Path(short) / "cachestore-other"
        foreign.mkdir()
        kept = session_place()
        another = session_place()
        assert not left.folder.exists() and kept.folder.is_dir() and foreign.is_dir()
        assert kept.folder.stat().st_mode & 0o777 == 0o700
        for place in (kept, another):
            place.close()
            assert not place.folder.exists()
    finally:
        shutil.rmtree(short)


def test_an_identity_that_ends_takes_its_session_along(server: CacheStoreServer, tiered: TieredStore) -> None:
    """However busy it is: what comes right behind an answer is not answered any more."""
    keys, _ = random_prompt(small_spec(), 1)
    request = session_pb2.SessionRequest(lookup=store_pb2.LookupRequest(chain=convert.chain_message(keys)))
    ends = time.time() + 0.5
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


def test_a_session_beyond_its_time_only_ends_its_put(attach: Attach, tiered: TieredStore) -> None:
    """Its client may be writing to memory of the store, so it is not sent away, and told nothing either."""
    keys, blocks = random_prompt(small_spec(), 2)
    put_blocks(tiered.namespace("default"), keys.fingerprint, blocks)
    others, theirs = random_prompt(small_spec(), 2, seed=2)
    writer = attach(Identity("w", "default", Role.writer, expires=time.time() + 0.3))
    answer = reserve(writer, others, theirs)
    rows(answer, writer, theirs)
    time.sleep(0.4)
    for ask in (lookup, read):
        with pytest.raises(PermissionDenied, match="time is over"):
            ask(writer, keys)
    assert commit(writer, answer.write.put, 0) == [PutStatus.STORED] and writer.usable
    abort = session_pb2.SessionRequest(abort=store_pb2.AbortRequest(put=answer.write.put))
    assert writer.ask(abort, SOON).abort.blocks == 1
    holds(lambda: not writer.usable)


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
