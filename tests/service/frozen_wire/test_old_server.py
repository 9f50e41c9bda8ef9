"""A client of this version and a store that speaks as the previous one: all that it promises, and what it cannot."""

from collections.abc import Callable, Iterator

import pytest

from cachestore.errors import Mismatch
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.service.events.mirror import Mirror
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.store.base import PutStatus, Store, put_blocks
from cachestore.testing import StoreTests, plans_of, random_prompt, same
from cachestore.testing.joint import EIGHT
from cachestore.testing.pins import PinTests
from cachestore.testing.puts import PutTests
from cachestore.testing.reads import ReadTests
from tests.service.frozen_wire.old_server import old_server

KEYS, BLOCKS = random_prompt(EIGHT, 2)


@pytest.fixture
def address(server: CacheStoreServer) -> Iterator[str]:
    with old_server(server.address) as address:
        yield address


@pytest.fixture
def store(address: str) -> Iterator[RemoteStore]:
    with RemoteStore(address, transports=("stream",)) as remote:
        yield remote


class TestStream(ReadTests, PutTests, PinTests):
    @pytest.fixture
    def store(self, store: RemoteStore) -> Store:
        return store


@pytest.mark.slow
class TestWhicheverIsOpen(StoreTests):
    @pytest.fixture
    def store(self, address: str) -> Iterator[Store]:
        with RemoteStore(address) as remote:
            yield remote


@pytest.mark.parametrize("transports", [("stream",), ("bulk",), ("shared", "bulk", "stream")])
def test_head_groups_are_put_nowhere(address: str, transports: tuple[str, ...]) -> None:
    with RemoteStore(address, transports=transports) as store:
        with pytest.raises(Mismatch, match="groups"):
            store.put(KEYS.fingerprint, plans_of(BLOCKS), groups=range(0, 4))
        assert store.lookup(KEYS).writing == 0
        assert [answer.status for answer in put_blocks(store, KEYS.fingerprint, BLOCKS)] == [PutStatus.STORED] * 2
        with store.read(KEYS) as reading:
            assert all(same(found, wanted) for (found, _), wanted in zip(reading, BLOCKS, strict=True))


def test_members_are_told(store: RemoteStore) -> None:
    member = Member("decode", "d", "127.0.0.1:1", "n", bytes(16), 2, KEYS.fingerprint)
    store.register(member, 60.0)
    assert store.members("decode")[1] == (member,)


def test_a_mirror_follows(address: str, store: RemoteStore, eventually: Callable[[Callable[[], object]], None]) -> None:
    put_blocks(store, KEYS.fingerprint, BLOCKS)
    mirror = Mirror(Connection(address))
    mirror.open()
    try:
        eventually(lambda: mirror.fresh and mirror.lookup(KEYS).ready == len(BLOCKS))
    finally:
        mirror.close()
