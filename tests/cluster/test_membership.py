"""How a store is made a node of several: its sections, and where the others find it."""

from pathlib import Path
from typing import Any

import pytest

from cachestore import settings
from cachestore.cluster import stores
from cachestore.cluster.membership import address_for_others
from cachestore.errors import ConfigError
from cachestore.service.settings import ServiceSettings

CPU = {"name": "cpu", "capacity": "4MiB"}


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"directroy": {"name": "redis"}}, "did you mean 'directory'"),
        ({"directory": {"name": "redis"}}, r"\[directory.server\]"),
        ({"directory": {"name": "redis", "tttl": 3}}, "directory.tttl.*did you mean 'ttl'"),
        ({"directory": {"name": "redis", "server": {"urll": "redis://x"}}}, "directory.server"),
        ({"tiers": [CPU, {"name": "redis"}], "directory": {"name": "redis"}}, "Redis that all of them reach"),
        ({"peers": {"timout": 1}}, "peers.timout.*did you mean 'timeout'"),
        ({"peers": {"timeout": 0}}, "peers.timeout"),
        ({"peers": {"copy_after": 0}}, "peers.copy_after"),
        ({"peers": {"largest": 1}}, "peers.largest"),
        ({"peers": {"credentials": {"cert": "a"}}}, "cert and key"),
        ({"peers": {"durable": {"acme": 2}}}, r"peers\.durable is for .*write \[directory\]"),
        ({"peers": {"replicas": {"*": 2}}}, r"peers\.replicas is for .*write \[directory\]"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        settings.check({"tiers": [CPU], **tables})


def test_the_directory_is_shown_without_its_secrets(password: str) -> None:
    server = {"url": f"sentinel://user:{password}@elsewhere:1/main", "sentinel_password": password}
    shown = settings.shown({"tiers": [CPU], "directory": {"name": "redis", "server": server}})
    assert password not in str(shown)
    assert shown["directory"]["server"]["url"] == "sentinel://***@elsewhere:1/main"
    assert "directory" not in settings.shown({"tiers": [CPU]})


def test_others_are_told_where_a_node_can_be_reached(tmp_path: Path) -> None:
    local = ServiceSettings()
    assert address_for_others("127.0.0.1:7420", local) == "127.0.0.1:7420"
    everywhere = ServiceSettings(host="0.0.0.0", insecure=True)
    with pytest.raises(ConfigError, match=r"service\.advertise"):
        address_for_others("0.0.0.0:7420", everywhere)
    assert address_for_others("0.0.0.0:7420", everywhere, "10.0.0.7") == "10.0.0.7:7420"
    assert address_for_others("127.0.0.1:7420", local, "10.0.0.7") == "127.0.0.1:7420"
    named = ServiceSettings(host="0.0.0.0", insecure=True, advertise="node-1.example")
    assert address_for_others("0.0.0.0:7420", named) == "node-1.example:7420"
    six = ServiceSettings(host="::", insecure=True, advertise="fd00::1")
    assert address_for_others("[::]:7420", six) == "[fd00::1]:7420"
    with pytest.raises(ConfigError, match=r"service\.unix_socket"):
        address_for_others("unix:/x", ServiceSettings(unix_socket=str(tmp_path / "s")))


def test_one_address_for_the_stores_of_several_machines_is_refused(tmp_path: Path) -> None:
    one, other = {"NodeManagerAddress": "10.0.0.1"}, {"NodeManagerAddress": "10.0.0.2"}
    tables: dict[str, Any] = {"tiers": [CPU], "directory": {"name": "redis"}}
    # several nodes of one machine find each other on loopback
    stores.refuse_loopback(tables, [one, one])
    stores.refuse_loopback(tables, [{**one, "NodeManagerAddress": f"127.0.0.{number}"} for number in range(1, 4)])
    with pytest.raises(
        ConfigError, match=r'service\.host = .127\.0\.0\.1. is reached on its own machine.*"0\.0\.0\.0"'
    ):
        stores.refuse_loopback(tables, [one, other])
    everywhere = {"host": "0.0.0.0", "insecure": True}
    stores.refuse_loopback({**tables, "service": everywhere}, [one, other])
    with pytest.raises(ConfigError, match=r"service\.advertise = 'here' is one place"):
        stores.refuse_loopback({**tables, "service": {**everywhere, "advertise": "here"}}, [one, other])
    # without a directory nobody looks for another
    stores.refuse_loopback({"tiers": [CPU]}, [one, other])


def test_a_directory_in_one_process_is_refused_on_several_nodes() -> None:
    alone = {"tiers": [CPU], "directory": {"name": "memory"}}
    stores.refuse_embedded(alone, [{}])
    with pytest.raises(ConfigError, match=r'directory\.name = "memory"'):
        stores.refuse_embedded(alone, [{}, {}])
