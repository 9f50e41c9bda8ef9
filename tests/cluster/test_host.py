"""What a host does to its own process."""

import resource

from cachestore.cluster.host import StoreHost, open_many_files
from cachestore.service.client import RemoteStore


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
