"""What a host does to its own process."""

import resource

import pytest

from cachestore.cluster import host as hosting
from cachestore.cluster.host import StoreHost, open_many_files
from cachestore.cluster.membership import Membership
from cachestore.errors import Unavailable
from cachestore.service.client import RemoteStore
from tests.cluster.peer_nodes import KEYS


def test_as_many_files_may_be_open_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[0] - 1, before[1]))
    try:
        open_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_node_of_a_directory_says_where_others_find_it_and_not_where_it_listens() -> None:
    tables = {
        "tiers": [{"name": "cpu", "capacity": "4MiB"}],
        "directory": {"name": "memory"},
        "service": {"host": "0.0.0.0", "port": 0, "bulk_port": -1, "insecure": True, "drain": 0.1},
    }
    host = StoreHost(tables, "a", machine="127.0.0.2")
    try:
        assert host.address().startswith("127.0.0.2:")
        with RemoteStore(host.address(), transports=("stream",)) as store:
            assert [member.address for member in store.members("store")[1]] == [host.address()]
    finally:
        host.close()


def test_a_node_that_listens_and_has_not_joined_yet_says_of_nothing_that_it_is_gone_from_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = []

    class Late(Membership):
        def open(self) -> None:
            # somebody who had asked the store at this port before does not wait until it has joined
            with RemoteStore(self._address, transports=("stream",)) as store:
                for remove in (lambda: store.delete(KEYS, timeout=5.0), lambda: store.clear(timeout=5.0)):
                    with pytest.raises(Unavailable, match="tier peer could not be asked") as refusal:
                        remove()
                    refused.append(refusal)
            super().open()

    monkeypatch.setattr(hosting, "Membership", Late)
    tables = {
        "tiers": [{"name": "cpu", "capacity": "4MiB"}],
        "directory": {"name": "memory"},
        "service": {"port": 0, "bulk_port": -1, "drain": 0.1},
    }
    host = StoreHost(tables, "a")
    try:
        assert len(refused) == 2
        with RemoteStore(host.address(), transports=("stream",)) as store:
            assert store.delete(KEYS) == 0
    finally:
        host.close()
