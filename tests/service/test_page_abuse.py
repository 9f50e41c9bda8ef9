"""What owners and readers of pages can send, or take back: nobody else is harmed, and nothing grows without bound."""

import os
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cachestore.errors import InvalidArgument, LeaseExpired, Overloaded, PermissionDenied
from cachestore.metrics import total
from cachestore.seal import ENCRYPTED, Header
from cachestore.service import convert
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.server import CacheStoreServer
from cachestore.service.shared.client import Lost, SharedSession
from cachestore.service.shared.messages import MOST_DESCRIPTORS, receive_with_descriptors, send
from cachestore.store import owned_pages
from cachestore.store.base import Lease
from cachestore.store.tiered import TieredStore
from cachestore.testing import check_sums
from cachestore.testing.tiers import KEYS
from cachestore.tiers.gpu_memory import GRANULE
from cachestore.tiers.gpu_words import UNIT
from cachestore.wire import session_pb2 as wire
from cachestore.wire import store_pb2
from tests.service.page_slabs import CHAIN, OURS, THEIRS, Slab, content, register, shown
from tests.service.sessions import SOON, WRITER


@pytest.fixture
def slab() -> Iterator[Slab]:
    slab = Slab()
    yield slab
    os.close(slab.words)
    slab.allocation.close()


@pytest.fixture
def begin(server: CacheStoreServer) -> Iterator[Any]:
    """Begins sessions that can open the memory of this host."""
    sessions: list[SharedSession] = []

    def start(identity: Identity = WRITER, *, writer: bool = True, device: str = "cpu") -> SharedSession:
        path, ticket = server.sessions.attach(identity, writer)
        sessions.append(SharedSession(path, {}, lambda: True))
        sessions[-1].open(ticket, SOON, device)
        return sessions[-1]

    yield start
    for session in sessions:
        session.close()


def test_what_cannot_be_a_page_is_refused_whole(begin: Any, slab: Slab, tiered: TieredStore) -> None:
    session, reader = begin(), begin(writer=False)
    register(session, *slab.descriptors, slabs=[slab.message()])
    good = slab.page(KEYS[0])
    header = Header.parse(good.header)
    wrong = {
        "another namespace": slab.page(KEYS[1], 1, namespace=THEIRS),
        "is none that": wire.Page(slab=2, generation=7, header=good.header),
        "does not hold": wire.Page(slab=1, generation=7, header=good.header[:-1] + b"x"),
        "does not hold (truncated)": wire.Page(slab=1, generation=7),
        "has a generation": wire.Page(slab=1, header=good.header),
        "in the clear": wire.Page(slab=1, generation=7, header=replace(header, flags=ENCRYPTED).pack()),
        "do not lie": wire.Page(slab=1, offset=GRANULE, generation=7, header=good.header),
        "bytes at 1 ": wire.Page(slab=1, offset=1, generation=7, header=good.header),
        f"bytes at {1 << 63}": wire.Page(slab=1, offset=1 << 63, generation=7, header=good.header),
    }
    for number, (text, page) in enumerate(wrong.items(), 1):
        with pytest.raises(InvalidArgument, match=text.replace("(", r"\(").replace(")", r"\)")):
            register(session, pages=[good, page])
        assert content(tiered) == (0, 2 * number)
    # what has been taken back on the way is no error: its owner could not know
    register(session, pages=[good, wire.Page(slab=1, offset=UNIT, generation=9, header=slab.page(KEYS[1], 1).header)])
    assert content(tiered)[0] == 1 == shown(reader)


def test_memory_that_is_not_what_is_said_is_refused(begin: Any, slab: Slab, tiered: TieredStore) -> None:
    session, small = begin(), Slab(2 * GRANULE)
    read, write = os.pipe()
    with open("/dev/null") as null, socket.socket() as plain:
        for wrong in (
            [slab.words],
            [slab.words, *slab.descriptors],
            [slab.words, slab.words],
            [small.words, slab.allocation.descriptor],
            [slab.words, small.allocation.descriptor],
            [read, write],
            [null.fileno(), plain.fileno()],
        ):
            with pytest.raises(InvalidArgument, match="slabs: "):
                register(session, *wrong, slabs=[slab.message()])
    for message in (
        wire.PageSlab(number=1, bytes=GRANULE + 1, memory=True),
        wire.PageSlab(number=1, bytes=1 << 50, memory=True),
        wire.PageSlab(number=1, memory=True),
        wire.PageSlab(number=1, bytes=GRANULE, memory=True, token=b"both"),
    ):
        with pytest.raises(InvalidArgument, match="slabs: one has"):
            register(session, *slab.descriptors, slabs=[message])
    for token in (b"", b"x" * 200):
        with pytest.raises(InvalidArgument, match="slabs: one has"):
            register(session, slab.words, slabs=[wire.PageSlab(number=1, bytes=GRANULE, token=token)])
    register(session, *slab.descriptors, slabs=[slab.message()])
    with pytest.raises(InvalidArgument, match="registered already"):
        register(session, *slab.descriptors, slabs=[slab.message()])
    for descriptor in (read, write, *small.descriptors):
        os.close(descriptor)


def test_who_may_register(begin: Any, slab: Slab) -> None:
    with pytest.raises(PermissionDenied, match="as a writer"):
        register(begin(writer=False))
    with pytest.raises(PermissionDenied, match="needs the role writer"):
        register(begin(Identity("r", "default", Role.reader), writer=False))
    with pytest.raises(InvalidArgument, match=r"hello\.device"):
        register(begin(device=""))


def test_the_namespace_of_pages_is_the_session_s(begin: Any, slab: Slab) -> None:
    session = begin()
    register(session, *slab.descriptors, slabs=[slab.message()], pages=[slab.page(KEYS[0])])
    assert shown(begin()) == 1 == shown(begin(Identity("r", "default", Role.reader), writer=False))
    foreign = begin(Identity("o", "theirs", Role.writer))
    assert shown(foreign) == 0 == shown(begin(device="another")) == shown(begin(device=""))
    request = store_pb2.ReadRequest(chain=convert.chain_message(CHAIN))
    answer = foreign.ask(wire.SessionRequest(read=request), SOON)
    assert not answer.pages.pages and not answer.pages.alive


def test_the_first_value_of_a_key_stays(begin: Any, slab: Slab, tiered: TieredStore) -> None:
    """Whoever computed the same on another way keeps that to itself."""
    first, second, reader, other = begin(), begin(), begin(), Slab()
    register(first, *slab.descriptors, slabs=[slab.message()], pages=[slab.page(KEYS[0])])
    register(second, *other.descriptors, slabs=[other.message()], pages=[other.page(KEYS[0], seed=1)])
    assert content(tiered) == (1, 1) and shown(first) == 0 and shown(second) == 1 == shown(reader)
    # of equal bytes there may be two, and one is enough
    register(second, pages=[other.page(KEYS[0], 1)])
    assert content(tiered)[0] == 2
    first.close()
    slab.generations[0] = 0
    assert shown(reader) == 1
    for descriptor in other.descriptors:
        os.close(descriptor)


def test_slabs_and_headers_are_bounded(
    begin: Any, slab: Slab, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_pages, "MOST_SLABS", 2)
    session = begin()
    register(session, *slab.descriptors, slabs=[slab.message(1)])
    with pytest.raises(Overloaded, match="take larger ones"):
        register(begin(), *slab.descriptors * 2, slabs=[slab.message(1), slab.message(2)])
    pages = [slab.page(key, place, place + 1) for place, key in enumerate(KEYS[:4])]
    monkeypatch.setattr(owned_pages, "MOST_BYTES", 4 * sum(len(page.header) for page in pages[:3]))
    register(session, pages=pages[:2])
    with pytest.raises(Overloaded, match="this namespace may have"):
        register(session, pages=pages[2:])
    assert content(tiered) == (2, 2)
    register(session, pages=pages[2:3])
    register(session, withdrawn=[1, 99])
    register(session, pages=pages[3:])
    figures = tiered.namespace("default").stats()
    assert total(figures, "tier_removed", tier="gpu", why="withdrawn") == 1
    assert content(tiered) == (3, 2)
    session.close()
    # all of it is room for others again
    other = begin()
    monkeypatch.setattr(owned_pages, "MOST_SLABS", 1)
    for _ in range(100):
        try:
            register(other, *slab.descriptors, slabs=[slab.message()])
            break
        except Overloaded:
            continue
    register(other, pages=pages[:3])
    assert content(tiered)[0] == 3


def test_a_page_that_is_missed_is_counted_once_and_for_its_lease_only(
    begin: Any, slab: Slab, tiered: TieredStore
) -> None:
    session, reader = begin(), begin()
    pages = [slab.page(KEYS[0], 0, 1), slab.page(KEYS[1], 1, 2)]
    register(session, *slab.descriptors, slabs=[slab.message()], pages=pages)
    request = store_pb2.ReadRequest(chain=convert.chain_message(CHAIN))
    with pytest.raises(Lost):
        # a client that knows of no pages gets descriptors that it did not ask for
        begin().ask(wire.SessionRequest(read=request), SOON)
    lease = (
        tiered.namespace("default").open(CHAIN, show=lambda chain: tiered.pages.leading(OURS, chain, "cpu", None)).lease
    )
    miss = wire.MissedPage(lease=lease.id, block=1)
    foreign = begin(Identity("o", "theirs", Role.writer))
    for asker in (foreign, reader, reader):
        try:
            asker.ask(wire.SessionRequest(missed=miss), SOON)
        except LeaseExpired:
            assert asker is foreign
    for block in (99, (1 << 32) - 1):
        reader.ask(wire.SessionRequest(missed=wire.MissedPage(lease=lease.id, block=block)), SOON)
    with pytest.raises(LeaseExpired):
        reader.ask(wire.SessionRequest(missed=wire.MissedPage(lease=b"x" * 16)), SOON)
    figures = tiered.namespace("default").stats()
    assert total(figures, "corruptions", tier="gpu") == 1 == total(figures, "tier_blocks", tier="gpu")
    assert shown(begin()) == 1
    tiered.namespace("default").release(Lease(lease.id, 0, 0.0))
    check_sums(tiered.namespace("default").stats())


def test_random_messages_harm_nobody_and_leave_no_descriptor(
    server: CacheStoreServer, begin: Any, slab: Slab, tiered: TieredStore
) -> None:
    chance, owner = random.Random(1), begin()
    register(owner, *slab.descriptors, slabs=[slab.message()], pages=[slab.page(KEYS[0])])
    pages = [slab.page(key, place, 7 + place) for place, key in enumerate(KEYS)]
    read = store_pb2.ReadRequest(chain=convert.chain_message(CHAIN), lease_ms=100)
    begun = [
        wire.SessionRequest(register=wire.RegisterPages(slabs=[slab.message()], pages=pages)),
        wire.SessionRequest(register=wire.RegisterPages(pages=pages, withdrawn=[8, 9])),
        wire.SessionRequest(read=read),
        wire.SessionRequest(missed=wire.MissedPage(lease=b"x" * 16, block=1)),
    ]

    def connected() -> socket.socket:
        path, ticket = server.sessions.attach(WRITER, True)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        hello = wire.SessionRequest(hello=wire.Hello(ticket=ticket, device="cpu"))
        send(connection, hello.SerializeToString())
        assert receive_with_descriptors(connection, SOON)[0]
        return connection

    before = len(os.listdir("/proc/self/fd"))
    connection = connected()
    for _ in range(400):
        data = bytearray(chance.choice(begun).SerializeToString())
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        given = [
            chance.choice([*slab.descriptors, 0]) for _ in range(chance.choice((0, 2, 2, 3, MOST_DESCRIPTORS + 9)))
        ]
        whole = bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data) + 1)))])
        if chance.random() < 0.1:
            whole += struct.pack("<I", 0)
        try:
            send(connection, whole, given)
            answer, descriptors = receive_with_descriptors(connection, SOON)
        except OSError:
            answer, descriptors = None, []
        for descriptor in descriptors:
            os.close(descriptor)
        if answer is None:
            connection.close()
            connection = connected()
    connection.close()
    # of others' sessions nothing is left, and what was there is
    for _ in range(200):
        if total(server.figures(), "sessions") == 1:
            break
        shown(owner)
    with tiered.index.changed:
        for holding in list(tiered.leases._open.values()):
            tiered.leases.end(holding)
    assert content(tiered)[0] == 1 == shown(begin())
    assert len(os.listdir("/proc/self/fd")) <= before + 2
