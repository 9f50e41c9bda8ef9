"""The cluster map: whoever asks any node learns of all, and hears when one comes or goes."""

from cachestore.service.client import RemoteStore
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import RedisNodes, hosted, tables


def names(store: RemoteStore) -> list[str]:
    return [member.name for member in store.members("store")[1]]


def test_any_node_tells_of_all_stores_and_the_epoch_of_changes(nodes: RedisNodes) -> None:
    a = nodes("a")
    eventually(lambda: names(a) == ["a"])
    alone = a.members()[0]
    with hosted(tables(nodes.redis), "b") as host, RemoteStore(host.address()) as b:
        eventually(lambda: names(a) == names(b) == ["a", "b"])
        together, members = a.members()
        assert together > alone
        assert [(member.role, member.address) for member in members] == [
            ("store", a.connection.address), ("store", host.address()),
        ]  # fmt: skip
        assert {member.incarnation for member in members} == {member.incarnation for member in b.members()[1]}
        assert a.members()[0] == together, "nothing has changed"
        assert a.members("decode") == (together, ())
    eventually(lambda: names(a) == ["a"])
    assert a.members()[0] > together
