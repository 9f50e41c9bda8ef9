"""Sessions of shared memory from the outside: who may, and what they are given."""

import fcntl
import mmap
import os
import shutil
import tempfile
import time
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from cachestore.codecs import create
from cachestore.errors import (
    InvalidArgument,
    LeaseExpired,
    PermissionDenied,
)
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.service import convert, tickets
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared import messages as session_socket
from cachestore.service.shared.client import Lost, SharedSession
from cachestore.service.shared.mapped import Mapped
from cachestore.service.shared.messages import receive_with_descriptors, send
from cachestore.service.shared.place import session_place
from cachestore.store.base import PutStatus, put_blocks
from cachestore.store.tiered import TieredStore
from cachestore.testing import random_prompt, same, small_spec
from cachestore.tiers.cpu import CpuTier
from cachestore.wire import session_pb2, store_pb2
from tests.service.sessions import (
    SOON,
    WRITER,
    Attach,
    commit,
    greeted,
    holds,
    lookup,
    probed,
    read,
    reserve,
)


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
        CacheStoreServer(tiered, ServiceSettings(port=0, probe_every=3600.0)) as server,
    ):
        # health takes memory and begins a session as well
        probed(server)
        holds(lambda: not total(server.figures(), "sessions"))

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
