"""Nodes of Ray that come and go: those that ask for a store get one, those that leave hand over what they hold."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.cluster import managed, stores
from cachestore.cluster.settings import ClusterSettings
from cachestore.errors import ConfigError
from cachestore.settings import check
from cachestore.tiers.embedded import EmbeddedRedis
from tests.redis_servers.server import free_port

CPU = {"name": "cpu", "capacity": "4MiB"}


@pytest.fixture(scope="module")
def found(ray: Any, next_object: Callable[[Any], Any]) -> Any:
    """What the scenario saw."""
    return next_object(ray.start("tests/cluster/joining.py"))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_store_is_on_every_node_that_asks_for_one(found: Any) -> None:
    assert "cluster.store_label" in found["nobody_asks"] and "--labels" in found["nobody_asks"]
    assert found["nodes"] == 3 and found["first"] == [True, 1] and found["again"] is True
    store, watch, redis = found["shown"]
    assert store.startswith("store ") and " at 127.0.0.1:" in store
    assert watch == "stores, watched every 0.2 s" and redis.startswith("redis for trials at 127.0.0.1:")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nodes_join_die_and_leave(found: Any) -> None:
    assert found["joined"] < 30 and found["restarted"] < 30 and found["redis_restarted"] < 30
    assert found["read"] == found["handed_over"] == 4
    assert found["left"] < 30 and found["stays_away"] == [1, True]
    assert found["stopped"] == 1 and found["left_behind"] == 0


def node(**more: Any) -> dict[str, Any]:
    return {"NodeID": "a" * 56, "Alive": True, "Labels": {"zone": "x"}, "Resources": {"CPU": 1.0}, **more}


@pytest.mark.parametrize(
    ("label", "resource", "asked"),
    [("", "", True), ("zone", "", True), ("zone=x", "", True), ("zone=y", "", False), ("other", "", False),
     ("", "CPU", True), ("", "store", False), ("zone=x", "store", False)],
)  # fmt: skip
def test_who_asks_for_a_store(label: str, resource: str, asked: bool) -> None:
    settings = ClusterSettings(store_label=label, store_resource=resource)
    assert stores.asks(node(), settings) is asked


def test_settings_that_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.watch"):
        ClusterSettings(watch=0.0)
    with pytest.raises(ConfigError, match=r"cluster\.store_label"):
        ClusterSettings(store_label="=yes")


def test_a_managed_redis_is_for_ray_to_start() -> None:
    tables = {"tiers": [CPU, {"name": "redis", "url": "managed"}], "directory": {"name": "redis"}}
    check(tables)
    with pytest.raises(ConfigError, match="cachestore up"):
        managed.refuse_unstarted(tables)
    with pytest.raises(ConfigError, match='"managed" keeps nothing for good'):
        check({"tiers": [CPU, {"name": "redis", "url": "managed", "durable": "wait", "replicas": 1}]})
    with pytest.raises(ConfigError, match=r"tiers\.redis\.password"):
        check({"tiers": [CPU, {"name": "redis", "url": "managed", "password": "x"}]})


def test_a_server_of_ours_that_others_reach_asks_for_its_password() -> None:
    import redis

    server = EmbeddedRedis(8 << 20, "127.0.0.1", free_port(), "s" * 64)
    server.open()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        with redis.Redis(port=server.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert "s" * 64 not in repr(server)
    finally:
        server.close()
