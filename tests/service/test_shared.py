"""Shared memory: the store's own conformance suite over it, and what makes it that transport."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.errors import PermissionDenied, Unavailable
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import LOCAL
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tokens import digest_of
from cachestore.service.client import RemoteStore
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared import client as shared_session
from cachestore.service.shared import lent
from cachestore.service.shared import messages as session_socket
from cachestore.service.shared import server as session_server
from cachestore.service.shared import sessions as shared_sessions
from cachestore.service.transports import ALL
from cachestore.store.base import Store, put_blocks
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore
from cachestore.testing import StoreTests, check_sums, random_prompt, same, small_spec
from cachestore.testing.puts import PutTests
from tests.service.sessions import LARGE, SHARED


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every message of a session, either way."""
    sizes: list[int] = []

    def sending(connection: Any, message: bytes, **options: Any) -> None:
        sizes.append(len(message))
        session_socket.send(connection, message, **options)

    def receiving(*given: Any) -> tuple[bytes | None, list[int]]:
        data, descriptors = session_socket.receive_with_descriptors(*given)
        sizes.append(len(data or b""))
        return data, descriptors

    monkeypatch.setattr(shared_session, "send", sending)
    monkeypatch.setattr(shared_session, "receive_with_descriptors", receiving)
    return sizes


class TestShared(StoreTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[Store]:
        with RemoteStore(server.address, transports=("shared", "stream")) as remote:
            yield remote


class TestCompressed(PutTests):
    @pytest.fixture
    def store(self, server: CacheStoreServer) -> Iterator[Store]:
        with RemoteStore(server.address, transports=SHARED, codec="lz4") as remote:
            yield remote


def test_no_payload_crosses_a_socket(shared: RemoteStore, said: list[int]) -> None:
    keys, blocks = random_prompt(LARGE, 12)
    put_blocks(shared, keys.fingerprint, blocks)
    with shared.read(keys) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))
    # a ticket, a reservation, a commit, a read, its end: of 24 MiB that were put, and read
    assert 0 < sum(said) < 8192


def test_a_store_is_near_where_its_memory_is_shared(serve: Callable[..., CacheStoreServer]) -> None:
    server, other = serve(), serve(shared=False)
    for address, transports, near in (
        (server.address, ALL, True),
        (server.address, ("bulk", "stream"), False),
        (other.address, ALL, False),
    ):
        with RemoteStore(address, transports=transports) as store:
            assert store.near() == near


def test_a_put_that_fails_with_its_client_leaves_nothing_of_it_to_the_next(
    shared: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, blocks = random_prompt(small_spec(), 2)

    def full(planes: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        # by then the store has lent memory for it
        patch.setattr(lent, "layout_of", full)
        with pytest.raises(MemoryError):
            put_blocks(shared, keys.fingerprint, blocks)
    put_blocks(shared, keys.fingerprint, blocks)
    with shared.read(keys) as reading:
        assert all(map(same, (block for block, _ in reading), blocks))


def test_a_block_is_read_where_it_is_wanted(shared: RemoteStore) -> None:
    keys, blocks = random_prompt(LARGE, 2)
    put_blocks(shared, keys.fingerprint, blocks)
    into = [np.empty(2 << 20, dtype=np.uint8) for _ in blocks]
    with shared.read(keys, into=into) as reading:
        assert len(list(reading)) == 2
    assert all(np.array_equal(found, np.concatenate(block.data)) for found, block in zip(into, blocks, strict=True))


def test_what_is_in_a_lower_tier_comes_another_way_under_the_same_lease(tmp_path: Path) -> None:
    tiers = [{"name": "cpu", "capacity": "4MiB"}, {"name": "disk", "path": str(tmp_path / "d"), "capacity": "1GiB"}]
    with (
        compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": {"write": "through"}}) as tiered,
        CacheStoreServer(tiered, ServiceSettings(port=0)) as server,
        RemoteStore(server.address, transports=("shared", "stream")) as store,
    ):
        prompts = [random_prompt(LARGE, 1, seed) for seed in range(4)]
        for keys, blocks in prompts:
            put_blocks(store, keys.fingerprint, blocks)
        assert tiered.settle()
        for keys, blocks in prompts:
            with store.read(keys) as reading:
                assert [same(block, blocks[0]) for block, _ in reading] == [True]
            assert tiered.settle()
        figures = store.stats()
        check_sums(figures)
        assert total(figures, "read_hits") == 4 and total(figures, "leases_open") == 0
        assert total(figures, "read_hits", tier="disk") >= 2
        with RemoteStore(server.address, transports=SHARED) as alone, alone.read(prompts[0][0]) as reading:
            assert len(list(reading)) in (0, 1)


def test_it_is_not_asked_for_again_and_again_where_it_is_not(
    serve: Callable[..., CacheStoreServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(shared=False)
    keys, blocks = random_prompt(small_spec(), 2)
    with RemoteStore(server.address, transports=("shared", "stream")) as store:
        called: list[str] = []
        call = store._connection.call

        def counting(method: str, *more: Any) -> Any:
            called.append(method)
            return call(method, *more)

        monkeypatch.setattr(store._connection, "call", counting)
        put_blocks(store, keys.fingerprint, blocks)
        for _ in range(3):
            with store.read(keys) as reading:
                assert len(list(reading)) == 2
        # once for reading and once for writing
        assert called.count("Attach") == 2
        monkeypatch.setattr(shared_sessions, "PAUSE", 0.0)
    with RemoteStore(server.address, transports=SHARED) as store, pytest.raises(Unavailable, match="no way"):
        store.read(keys)


def test_more_clients_than_sessions_use_another_way(server: CacheStoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_server, "MOST_SESSIONS", 3)
    keys, blocks = random_prompt(small_spec(), 2)
    stores = [RemoteStore(server.address, transports=("shared", "stream")) for _ in range(6)]
    for store in stores:
        store.open()
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert len(list(reading)) == 2
    for store in stores:
        store.close()


def test_a_lookup_takes_the_short_way(shared: RemoteStore, said: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    keys, blocks = random_prompt(small_spec(), 3)
    put_blocks(shared, keys.fingerprint, blocks[:2])
    call = shared._connection.call

    def refusing(method: str, *more: Any) -> Any:
        assert method == "Attach"
        return call(method, *more)

    monkeypatch.setattr(shared._connection, "call", refusing)
    before = len(said)
    found = shared.lookup(keys)
    assert (found.ready, found.writing, found.runs[0].tier) == (2, 0, "cpu") and len(said) >= before + 2


def test_many_threads_read_and_write_at_once(shared: RemoteStore) -> None:
    prompts = [random_prompt(small_spec(), 4, seed) for seed in range(24)]

    def both(number: int) -> bool:
        keys, blocks = prompts[number]
        put_blocks(shared, keys.fingerprint, blocks)
        with shared.read(keys) as reading:
            return all(map(same, (block for block, _ in reading), blocks))

    with ThreadPoolExecutor(24) as threads:
        assert all(threads.map(both, range(24)))
    figures = shared.stats()
    check_sums(figures)
    assert total(figures, "read_hits") == 96


def test_a_client_goes_on_with_a_store_that_was_restarted(
    tiered: TieredStore, serve: Callable[..., CacheStoreServer]
) -> None:
    server = serve()
    port = int(server.address.rpartition(":")[2])
    keys, blocks = random_prompt(small_spec(), 2)
    with RemoteStore(server.address, transports=SHARED) as store:
        put_blocks(store, keys.fingerprint, blocks)
        with store.read(keys) as reading:
            assert len(list(reading)) == 2
        path = Path(server.sessions.attach(LOCAL, False)[0])
        assert path.is_socket() and path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
        server.close()
        assert not path.parent.exists()
        with pytest.raises(Unavailable):
            store.read(keys, timeout=1)
        serve(port=port)
        until = time.monotonic() + 10
        while True:
            try:
                with store.read(keys, timeout=1) as reading:
                    assert len(list(reading)) == 2
                break
            except Unavailable:
                assert time.monotonic() < until
                time.sleep(0.05)


def test_who_may_only_read_is_told_so_when_putting(serve: Callable[..., CacheStoreServer]) -> None:
    token = "r" * 40
    reader = IdentitySettings("reader", "reader", token="sha256:" + digest_of(token).hex())
    server = serve(identities=(reader,))
    keys, blocks = random_prompt(small_spec(), 1)
    with RemoteStore(server.address, transports=("shared", "stream"), credentials=Credentials(token=token)) as store:
        with store.read(keys) as reading:
            assert list(reading) == []
        with pytest.raises(PermissionDenied, match="writer"):
            put_blocks(store, keys.fingerprint, blocks)
