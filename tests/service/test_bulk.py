"""The bulk path: the whole interface over it, alone and where there is none."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from cachestore.block import Part
from cachestore.deadline import Deadline
from cachestore.metrics import total
from cachestore.service.auth.certificates import Made
from cachestore.service.auth.credentials import Credentials
from cachestore.service.bulk import lines as bulk_lines
from cachestore.service.bulk import transport as bulk_transport
from cachestore.service.bulk.line import Line
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import Store, put_blocks
from cachestore.testing import StoreTests, check_sums, random_prompt, same, small_spec
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests
from cachestore.wire import store_pb2 as wire
from tests.service.bulk_lines import BULK, LARGE, Serve, figure


@pytest.fixture
def no_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a block may go over a gRPC stream."""

    def refuse(*_: object) -> bytes:
        raise AssertionError("bytes of a block in a message of gRPC")

    monkeypatch.setattr("cachestore.service.stream.reading.frames.block_frame", refuse)
    monkeypatch.setattr("cachestore.service.stream.sink.plane_frame", refuse)


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


@pytest.mark.usefixtures("no_frames")
@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, ""),
        ({"host": "0.0.0.0", "insecure": True}, ""),
        ({"host": "::", "insecure": True}, ""),
        ({"advertise": "localhost"}, "localhost"),
        ({"host": "::", "insecure": True, "advertise": "::1"}, "[::1]"),
    ],
)
def test_the_port_is_found_at_the_host_that_is_called_or_told(serve: Serve, settings: Any, host: str) -> None:
    server = serve(**settings)
    asked: list[str] = []

    class Hearing(bulk_lines.Lines):
        """Remembers where it was sent."""

        def begin(self, offer: wire.BulkOffer, deadline: Deadline) -> tuple[str, Line]:
            asked.append(offer.address)
            return super().begin(offer, deadline)

    keys, blocks = random_prompt(small_spec(), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_transport, "Lines", Hearing)
        with RemoteStore(f"127.0.0.1:{server.address.rpartition(':')[2]}", transports=BULK) as store:
            put_blocks(store, keys.fingerprint, blocks)
            with store.read(keys) as reading:
                assert [same(one, wanted) for (one, _), wanted in zip(reading, blocks, strict=True)] == [True] * 2
    assert asked == [f"{host}:{server.bulk.port}"] * 2
