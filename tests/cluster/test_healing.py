"""A node that starts while Redis is away."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.cluster.host import StoreHost
from cachestore.errors import ConfigError, Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import PutStatus, put_blocks
from cachestore.testing import random_prompt, small_spec
from tests.cluster.conftest import eventually
from tests.redis_servers.server import RedisServer

KEYS, BLOCKS = random_prompt(small_spec(), 4)
WAITS = {"connect_timeout": "1s", "timeout": "1s"}


def tables(server: RedisServer) -> dict[str, Any]:
    """A node with a Redis tier, whose server is the directory's too."""
    return {
        "tiers": [{"name": "cpu", "capacity": "16MiB"}, {"name": "redis", "url": server.url, **WAITS}],
        "directory": {"name": "redis", "heartbeat": "100ms", "ttl": "2s", **WAITS},
        "service": {"port": 0, "drain": 0.1},
    }


@pytest.fixture
def host(redis_server: Callable[..., RedisServer]) -> Iterator[Callable[..., RemoteStore]]:
    """Starts patient nodes with one Redis, which is ended first."""
    with contextlib.ExitStack() as stack:
        server = redis_server(tcp=True)

        def start(name: str) -> RemoteStore:
            made = StoreHost(tables(server), name, 0, patient=True)
            stack.callback(made.close)
            return stack.enter_context(RemoteStore(made.address(), transports=("stream",)))

        start.redis = server  # type: ignore[attr-defined]
        yield start


def test_it_serves_what_it_holds_and_joins_when_redis_is_there(host: Any) -> None:
    host.redis.kill()
    a = host("a")
    assert {answer.status for answer in put_blocks(a, KEYS.fingerprint, BLOCKS)} == {PutStatus.STORED}
    with a.read(KEYS) as reading:
        assert len(list(reading)) == len(KEYS)
    figures = a.stats()
    assert total(figures, "tier_healthy", tier="redis") == 0 and total(figures, "directory_alive") == 0
    host.redis.start()
    b = host("b")
    eventually(lambda: total(a.stats(), "tier_healthy", tier="redis") == 1)
    # what it came to hold meanwhile it says now
    eventually(lambda: b.lookup(KEYS).ready == len(KEYS))
    assert total(a.stats(), "directory_lives") == 2


def test_who_starts_a_cluster_hears_of_it_at_once(host: Any) -> None:
    host.redis.kill()
    with pytest.raises(Unavailable, match="cannot reach"):
        StoreHost(tables(host.redis), "a", 0)


def test_a_server_that_does_not_fit_is_refused_however_patient(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server(policy="allkeys-lru")
    with pytest.raises(ConfigError, match="volatile-lru"):
        StoreHost(tables(server), "a", 0, patient=True)
