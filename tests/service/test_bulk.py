"""The bulk path: the whole interface over it, whom it serves, and what it does to those it does not."""

import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import grpc
import pytest

from cachestore.block import BlockSpec, Part, Slot
from cachestore.deadline import Deadline
from cachestore.errors import Aborted, DeadlineExceeded, Unavailable
from cachestore.metrics import total
from cachestore.service import convert, tickets
from cachestore.service.auth.certificates import Made
from cachestore.service.auth.credentials import Credentials
from cachestore.service.bulk import lines as bulk_lines
from cachestore.service.bulk import server as bulk_server
from cachestore.service.bulk.format import ANSWER, BLOCK, COMMIT, FRAME, GO, LAST, RAW, REQUEST, TICKET
from cachestore.service.bulk.line import PlainLine
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.convert_put import Reservation, reserve_message
from cachestore.service.server import SERVICE, CacheStoreServer
from cachestore.service.stream import frames
from cachestore.store.base import Durability, PutStatus, Store, put_blocks
from cachestore.testing import StoreTests, check_sums, plans_of, random_prompt, same, small_spec
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests
from cachestore.wire import store_pb2 as wire

BULK = ("bulk",)
Serve = Callable[..., CacheStoreServer]

LARGE = BlockSpec("test/large", "0" * 40, "float32", (Slot(8, 128, 128),), head_groups=1, block_tokens=256)
"""Two planes of 1 MiB."""


@pytest.fixture
def no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a block may go over a gRPC stream."""

    def refuse(*_: object) -> bytes:
        raise AssertionError("bytes of a block in a message of gRPC")

    monkeypatch.setattr("cachestore.service.stream.reading.frames.block_frame", refuse)
    monkeypatch.setattr("cachestore.service.stream.sink.plane_frame", refuse)


@pytest.fixture
def bulk(server: CacheStoreServer) -> Iterator[RemoteStore]:
    with RemoteStore(server.address, transports=BULK) as store:
        yield store


class TestBulk(StoreTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[Store]:
        with RemoteStore(server.address, transports=("bulk", "stream")) as store:
            yield store


@pytest.mark.usefixtures("no_frames")
class TestNothingElse(ReadTests):
    @pytest.fixture
    def store(self, bulk: RemoteStore) -> Store:
        return bulk


@pytest.mark.usefixtures("no_frames")
class TestCoded(PutTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[Store]:
        with RemoteStore(server.address, codec="lz4", transports=BULK) as store:
            yield store


@pytest.mark.usefixtures("no_frames")
class TestMutualTls(PutTests):
    @pytest.fixture
    def store(self, serve: Serve, made: Made) -> Iterator[Store]:
        server = serve(tls_cert=str(made.cert()), tls_key=str(made.key()), client_ca=str(made.ca))
        credentials = Credentials(ca=str(made.ca), cert=str(made.cert("alice")), key=str(made.key("alice")))
        with RemoteStore(server.address, transports=BULK, credentials=credentials) as store:
            yield store
        assert total(list(server.bulk.counters.figures()), "bulk_transfers") > 0


class TestWhereThereIsNone(PutTests):
    """A store that offers no bulk path serves the same on its stream."""

    @pytest.fixture
    def store(self, serve: Serve) -> Iterator[Store]:
        with RemoteStore(serve(bulk_port=-1).address, transports=BULK) as store:
            yield store


def figure(server: CacheStoreServer, name: str, **labels: str) -> int:
    return total(list(server.bulk.counters.figures()), name, **labels)


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.usefixtures("no_frames")
def test_one_connection_serves_one_transfer_after_the_other(bulk: RemoteStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 4)
    put_blocks(bulk, keys.fingerprint, blocks)
    for _ in range(5):
        with bulk.read(keys) as reading:
            assert all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True))
    assert figure(server, "bulk_transfers") == 6 and len(server.bulk.guests) == 1
    figures = bulk.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == 20 and total(figures, "leases_open") == 0


def test_a_part_of_every_block(bulk: RemoteStore) -> None:
    keys, blocks = random_prompt(small_spec(), 3)
    put_blocks(bulk, keys.fingerprint, blocks)
    for part in (Part(slots=range(1, 2)), Part(groups=range(1, 2))):
        with bulk.read(keys, part=part) as reading:
            assert [same(one, wanted, part) for (one, _), wanted in zip(reading, blocks, strict=True)] == [True] * 3


def test_a_reader_that_stops_early_leaves_nothing_half_read(bulk: RemoteStore, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 6)
    put_blocks(bulk, keys.fingerprint, blocks)
    for count in (1, 3, 6):
        with bulk.read(keys) as reading:
            assert [same(block, wanted) for (block, _), wanted in zip(reading, blocks[:count], strict=False)]
    with bulk.read(keys) as reading:
        assert len(list(reading)) == 6
    assert total(bulk.stats(), "leases_open") == 0


def test_a_port_that_nobody_reaches_is_not_tried_again_and_again(server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 3)
    with socket.create_server(("127.0.0.1", 0)) as once:
        nobody = once.getsockname()[1]
    server.bulk.port = nobody
    with RemoteStore(server.address, transports=("bulk", "stream")) as store:
        put_blocks(store, keys.fingerprint, blocks)
        for _ in range(2):
            with store.read(keys) as reading:
                assert [same(one, wanted) for (one, _), wanted in zip(reading, blocks, strict=True)] == [True] * 3
        assert total(store.stats(), "read_hits") == total(store.stats(), "read_blocks") == 6
    with RemoteStore(server.address, transports=BULK) as store, store.read(keys) as reading:
        assert list(reading) == [], "another transport would go on, but there is none"


class Raw:
    """A client that says what it likes."""

    def __init__(self, server: CacheStoreServer) -> None:
        self.server = server
        self.lines: list[PlainLine] = []

    def connect(self) -> PlainLine:
        connection = socket.create_connection(("127.0.0.1", self.server.bulk.port))
        self.lines.append(PlainLine(connection, 5.0))
        return self.lines[-1]

    def ticket(self, chain: Any, **metadata: str) -> bytes:
        """The ticket of a read."""
        request = wire.ReadRequest(
            chain=wire.Chain(fingerprint=chain.fingerprint, keys=b"".join(chain.keys)), bulk=True, lease_ms=1000
        )
        with grpc.insecure_channel(self.server.address) as channel:
            call = channel.unary_stream(frames.READ, wire.ReadRequest.SerializeToString, wire.ReadResponse.FromString)
            (response,) = call(request, timeout=5, metadata=tuple(metadata.items()))
        ticket: bytes = response.granted.bulk.ticket
        return ticket

    def begin(self, ticket: bytes, line: PlainLine | None = None) -> PlainLine:
        line = line or self.connect()
        line.send(REQUEST.pack(TICKET, 0, ticket), Deadline.after(5))
        return line

    def ended(self, line: PlainLine) -> bool:
        """Whether the store has closed it, without another word."""
        assert line.readable(10)
        with suppress(ConnectionResetError):
            line.take(1, Deadline.after(5))
            return False
        return True


@pytest.fixture
def raw(server: CacheStoreServer) -> Iterator[Raw]:
    raw = Raw(server)
    yield raw
    for line in raw.lines:
        line.close()


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


def reserved(server: CacheStoreServer, raw: Raw, blocks: Any, keys: Any) -> tuple[PlainLine, Any]:
    """A line on which a put is ready, and the end of its stream."""
    over = threading.Event()
    reserve = reserve_message(Reservation(keys.fingerprint, tuple(plans_of(blocks)), Durability.CACHE, None))
    reserve.bulk = True

    def requests() -> Iterator[bytes]:
        yield wire.WriteRequest(reserve=reserve).SerializeToString()
        over.wait(20)

    channel = grpc.insecure_channel(server.address)
    call = channel.stream_stream(f"/{SERVICE}/Write")(requests(), timeout=30)
    response = wire.WriteResponse.FromString(next(call))
    line = raw.begin(response.bulk.ticket)
    assert line.take(ANSWER.size, Deadline.after(5)) == ANSWER.pack(GO, 0)

    def end() -> None:
        over.set()
        call.cancel()
        channel.close()

    return line, end


@pytest.mark.parametrize(
    "said",
    [
        FRAME.pack(b"junk", 0, 0, 1),
        FRAME.pack(RAW, 7, 0, 1),
        FRAME.pack(RAW, 0, 0, 3),
        FRAME.pack(RAW, 0, 1, 1 << 31),
        FRAME.pack(RAW, 0, 1 << 31, 1),
        FRAME.pack(RAW, 0, 0, 0),
        FRAME.pack(b"KVCD", 0, 0, 1) + (9).to_bytes(8, "little") + (5).to_bytes(8, "little"),
        FRAME.pack(b"KVCD", 0, 0, 1) + (1).to_bytes(8, "little") + (1 << 40).to_bytes(8, "little"),
        FRAME.pack(b"KVCD", 0, 0, 1) + bytes(16),
        FRAME.pack(COMMIT, 1 << 31, 0, 0),
        FRAME.pack(COMMIT, 4, 0, 0) + b"\xff\xff\xff\xff",
        FRAME.pack(RAW, 0, 0, 1) + bytes(1000),
    ],
)
def test_a_put_that_says_what_cannot_be(
    raw: Raw, server: CacheStoreServer, bulk: RemoteStore, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    line.send(said, Deadline.after(5))
    if said.endswith(bytes(1000)):
        line.close()
    else:
        assert raw.ended(line)
    eventually(lambda: figure(server, "bulk_broken") == 1)
    end()
    eventually(lambda: not bulk.lookup(keys).writing)
    assert bulk.lookup(keys).ready == 0 and total(bulk.stats(), "put_open") == 0
    assert not caplog.records


def test_planes_whose_checksums_do_not_hold_fail_their_block(raw: Raw, server: CacheStoreServer) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    deadline = Deadline.after(5)
    for plane, data in enumerate(blocks[0].data):
        line.send(FRAME.pack(RAW, 0, plane, 1) + data.tobytes() + bytes(8), deadline)
    commit = wire.Commit(blocks=[0]).SerializeToString()
    line.send(FRAME.pack(COMMIT, len(commit), 0, 0) + commit, deadline)
    word, size = ANSWER.unpack(line.take(ANSWER.size, deadline))
    response = wire.WriteResponse.FromString(line.take(size, deadline))
    assert word == GO and [answer.status for answer in response.answers] == [wire.FAILED]
    end()


def test_an_abort_amid_a_write_takes_no_slot_that_is_written_to(
    raw: Raw, server: CacheStoreServer, bulk: RemoteStore, tiered: Any
) -> None:
    keys, blocks = random_prompt(LARGE, 1)
    line, end = reserved(server, raw, blocks, keys)
    line.send(FRAME.pack(RAW, 0, 0, 2) + bytes(1 << 19), Deadline.after(5))
    (put,) = tiered.namespace("default")._puts.values()
    eventually(lambda: tiered.index.everything() and tiered.index.everything()[0].users)
    begun = time.monotonic()
    assert bulk.abort(put.id) == 1 and time.monotonic() - begun < 1
    assert bulk.lookup(keys).writing == 0
    # the slot is still the connection's: nobody else may have it
    assert tiered.memory.usage().used > 0
    line.close()
    eventually(lambda: tiered.memory.usage().used == 0)
    end()


def test_a_put_that_was_aborted_says_so(bulk: RemoteStore, tiered: Any) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    with bulk.put(keys.fingerprint, plans_of(blocks)) as put:
        put.write(0, 0, blocks[0].data[0])
        bulk.abort(next(iter(tiered.namespace("default")._puts)))
        with pytest.raises(Aborted):
            put.commit()


def test_a_put_whose_time_is_over(bulk: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    begun = time.monotonic()
    with (
        pytest.raises((DeadlineExceeded, Unavailable)),
        bulk.put(keys.fingerprint, plans_of(blocks), timeout=0.5) as put,
    ):
        put.write(0, 0, blocks[0].data[0])
        time.sleep(0.6)
        put.write(0, 1, blocks[0].data[1])
        put.commit()
    assert time.monotonic() - begun < 1.6
    eventually(lambda: total(bulk.stats(), "puts_open") == 0)


def test_an_abort_from_another_thread_ends_a_write(server: CacheStoreServer, bulk: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    put = bulk.put(keys.fingerprint, plans_of(blocks))
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(
            lambda: [put.write(n, p, d) for n, b in enumerate(blocks) for p, d in enumerate(b.data)]
        )
        put.abort()
        with suppress(Aborted, Unavailable):
            writing.result(10)
    assert {answer.status for answer in put.answers} == {PutStatus.FAILED}
    eventually(lambda: not bulk.lookup(keys).writing and total(bulk.stats(), "puts_open") == 0)


def test_a_reader_that_takes_nothing_is_cut_off(serve: Serve, tiered: Any) -> None:
    server = serve(stall=0.5)
    keys, blocks = random_prompt(LARGE, 12)
    raw = Raw(server)
    with RemoteStore(server.address, transports=BULK) as store:
        put_blocks(store, keys.fingerprint, blocks)
        line = raw.begin(raw.ticket(keys))
        for _ in range(3):
            with store.read(keys) as reading:
                assert len(list(reading)) == 12
        eventually(lambda: figure(server, "bulk_broken") == 1)
        assert len(server.bulk.guests) == 1 and server.bytes_in_flight.used == 0
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


def test_many_clients_at_once(server: CacheStoreServer) -> None:
    def work(number: int) -> bool:
        keys, blocks = random_prompt(small_spec(), 6, seed=number)
        with RemoteStore(server.address, transports=BULK) as store:
            for _ in range(5):
                put_blocks(store, keys.fingerprint, blocks)
                with store.read(keys) as reading:
                    if not all(same(block, wanted) for (block, _), wanted in zip(reading, blocks, strict=True)):
                        return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_many_threads_of_one_client(bulk: RemoteStore) -> None:
    prompts = [random_prompt(LARGE, 3, seed=seed) for seed in range(4)]
    for keys, blocks in prompts:
        put_blocks(bulk, keys.fingerprint, blocks)

    def read(number: int) -> bool:
        keys, blocks = prompts[number % 4]
        with bulk.read(keys) as reading:
            return [same(one, wanted) for (one, _), wanted in zip(reading, blocks, strict=True)] == [True] * 3

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(read, range(24)))


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
        assert time.monotonic() - begun < 3
        writing[1]()
    assert server.bytes_in_flight.used == 0
    reading.close()
    writing[0].close()
    eventually(lambda: not {one for one in set(threading.enumerate()) - before if one.name == "cachestore-bulk"})


def test_an_address_elsewhere_is_not_connected_to_without_tls(server: CacheStoreServer) -> None:
    """It comes from the store: the ticket and the blocks would go wherever it says."""
    with (
        closing(Connection(server.address)) as connection,
        closing(bulk_lines.Lines(connection)) as lines,
        socket.create_server(("127.0.0.1", 0)) as elsewhere,
    ):
        # which this machine connects to itself, as it would to another
        offer = wire.BulkOffer(address=f"0.0.0.0:{elsewhere.getsockname()[1]}", ticket=bytes(32))
        with pytest.raises(ConnectionError):
            lines.begin(offer, Deadline.after(5))
        elsewhere.settimeout(0.2)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


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
