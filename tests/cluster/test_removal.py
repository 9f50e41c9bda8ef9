"""Delete and Clear reach who is there when they are called, however lately it came."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import Durability, put_blocks
from cachestore.testing import plans_of, write_blocks
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, PATIENT, RedisNodes, fake, tables
from tests.faults.processes import StoreProcess
from tests.redis_servers.server import RedisServer

HEARTBEAT = "30s"
"""How seldom a node hears by itself who came: not once in a test."""


class NodeProcess(StoreProcess):
    """A node that leaves when it is asked to end."""

    script = "faults/node_process.py"


@pytest.mark.parametrize(
    "remove", [lambda store: store.delete(KEYS), lambda store: store.clear()], ids=["delete", "clear"]
)
def test_a_node_that_has_just_come_back_with_its_disk_is_told(
    redis_server: Callable[..., RedisServer], tmp_path: Path, remove: Callable[[RemoteStore], int]
) -> None:
    seldom = {"name": "redis", "heartbeat": HEARTBEAT, "ttl": "120s", **PATIENT}
    server = redis_server()

    def configuration(name: str) -> dict[str, object]:
        tiers = [
            {"name": "cpu", "capacity": "16MiB"},
            {"name": "disk", "path": str(tmp_path / name), "capacity": "16MiB"},
        ]
        directory = {**seldom, "server": {"url": server.url}}
        return tables(server, tiers=tiers, directory=directory, store={"node": name})

    processes = [NodeProcess(configuration("b"))]
    try:
        with RemoteStore(processes[0].address, transports=("stream",)) as b:
            with b.put(KEYS.fingerprint, plans_of(BLOCKS), durability=Durability.DURABLE) as put:
                write_blocks(put, BLOCKS)
                put.commit()
        assert processes[0].end(20.0) == 0
        processes.append(NodeProcess(configuration("a")))
        with RemoteStore(processes[1].address, transports=("stream",)) as a:
            assert [member.name for member in a.members("store")[1]] == ["a"]
            processes.append(processes[0].again())
            # it is up, and a has not had a heartbeat since
            remove(a)
        with RemoteStore(processes[2].address, transports=("stream",)) as b:
            assert b.lookup(KEYS).ready == 0
    finally:
        for process in processes:
            process.kill()


def test_while_it_cannot_be_asked_who_lives_others_are_told_and_nobody_says_that_it_is_gone(nodes: RedisNodes) -> None:
    a, b = nodes("a"), nodes("b")
    for store in (a, b):
        put_blocks(store, KEYS.fingerprint, BLOCKS)
    eventually(lambda: len(a.members("store")[1]) == 2)
    nodes.redis.kill()
    with pytest.raises(Unavailable, match="tier peer could not be asked"):
        a.delete(KEYS, timeout=5.0)
    assert [run.tier for store in (a, b) for run in store.lookup(KEYS).runs] == []
    nodes.redis.start()
    eventually(lambda: deleted(a))


@pytest.mark.parametrize(
    "remove", [lambda store: store.delete(KEYS), lambda store: store.clear()], ids=["delete", "clear"]
)
def test_a_node_that_finds_itself_at_the_address_of_another_does_not_say_that_it_is_gone(
    nodes: RedisNodes, remove: Callable[[RemoteStore], int]
) -> None:
    # as two machines whose nodes both serve on loopback are: at one address, by what the directory says
    a = nodes("a")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    with fake(nodes.redis, a.members("store")[1][0].address) as other:
        other.step()
        eventually(lambda: len(a.members("store")[1]) == 2)
        with pytest.raises(Unavailable, match="tier peer could not be asked"):
            remove(a)
        assert total(a.stats(), "peer_failures", reason="mismatch") >= 1
        assert a.lookup(KEYS).ready == 0
    eventually(lambda: deleted(a))


def test_a_node_that_the_directory_forgot_is_reached_by_the_life_that_others_know_of_it(nodes: RedisNodes) -> None:
    a, b = nodes("a"), nodes("b")
    for store in (a, b):
        put_blocks(store, KEYS.fingerprint, BLOCKS)
    eventually(lambda: len(a.members("store")[1]) == 2)
    nodes.redis.kill()
    nodes.redis.start()
    # whichever of the two has joined again by now
    eventually(lambda: deleted(a))
    assert b.lookup(KEYS).ready == 0
    assert total(a.stats(), "peer_failures", reason="mismatch") == 0


def deleted(store: RemoteStore) -> bool:
    """Whether a node says that these blocks are gone from all."""
    try:
        store.delete(KEYS, timeout=5.0)
    except Unavailable:
        return False
    return True
