"""What a directory refuses to start with, and the clock and tier it goes by."""

from collections.abc import Callable
from typing import Any

import pytest

from cachestore.config import build_named
from cachestore.deadline import Deadline
from cachestore.directory import DIRECTORIES
from cachestore.directory.memory import Board, Memory, MemoryDirectory
from cachestore.directory.redis import Redis
from cachestore.directory.redis_reach import Server
from cachestore.errors import ConfigError, Unavailable
from cachestore.eviction.lru import Lru
from cachestore.testing.directories import Node, holders
from cachestore.testing.sealed import sealed_block
from cachestore.testing.tiers import KEYS, A, departed, soon
from cachestore.tiers.redis import Redis as Tier
from tests.redis_servers.server import RedisServer


def test_a_section_names_a_directory() -> None:
    table = {"name": "redis", "ttl": "20s", "heartbeat": "500ms", "server": {"url": "redis://elsewhere:1"}}
    built = build_named(DIRECTORIES, table, "directory")
    assert built == Redis(Server("redis://elsewhere:1"), ttl=20.0, heartbeat=0.5)
    assert build_named(DIRECTORIES, {"name": "memory"}, "directory") == Memory()


@pytest.mark.parametrize(
    "table, says",
    [
        ({"name": "reddis"}, "did you mean 'redis'"),
        ({"name": "redis", "tttl": 1}, "directory.tttl.*did you mean 'ttl'"),
        ({"name": "redis", "ttl": 0}, "directory.*ttl must be more"),
        ({"name": "redis", "ttl": 5}, "directory.ttl must be three heartbeats or more"),
        ({"name": "redis", "timeout": -1}, "directory.timeout"),
        ({"name": "redis", "rate": 0}, "directory.rate must lie"),
        ({"name": "redis", "backlog": 0}, "directory.backlog must lie"),
        ({"name": "redis", "sweep_rate": 0}, "directory.sweep_rate must lie"),
        ({"name": "redis", "server": {"url": "embedded"}}, "Redis that all of them reach"),
        ({"name": "redis", "server": {"url": "http://x"}}, "^directory.server.url must be .*redis://host:port"),
        ({"name": "redis", "server": {"url": "redis://x", "user": "a", "key_file": "k"}}, "^directory.server.key_file"),
        ({"name": "redis", "server": {"url": "redis://x", "ttl": 9}}, "directory.server.ttl"),
        ({"name": "memory", "ttl": 0}, "directory.ttl"),
    ],
)
def test_what_cannot_work_is_refused_by_name(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_named(DIRECTORIES, table, "directory")


def test_without_a_redis_there_is_none_in_redis() -> None:
    with pytest.raises(ConfigError, match=r"\[directory.server\]"):
        Redis().start()
    with pytest.raises(ConfigError, match="embedded"):
        Redis().start(Tier())


def test_who_cannot_be_reached_or_gives_no_rights_is_named(
    redis_server: Callable[..., RedisServer], password: str
) -> None:
    with pytest.raises(Unavailable, match=r"^tiers\.redis\.url: cannot reach"):
        Redis().start(Tier("redis://127.0.0.1:1")).open()
    with pytest.raises(Unavailable, match=r"^directory\.server\.url: cannot reach"):
        Redis(Server("redis://127.0.0.1:1")).start().open()
    server = redis_server()
    rights = [">" + password, "~cachestore:*", "+@all", "-append", "-hset"]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "poor", "on", *rights)
    url = server.url.replace("unix://", f"unix://poor:{password}@")
    with pytest.raises(ConfigError, match="APPEND, HSET") as refused:
        Redis().start(Tier(url)).open()
    assert password not in str(refused.value)


def test_a_directory_in_memory_goes_by_the_clock_it_is_given() -> None:
    now = [0.0]
    board = Board(clock=lambda: now[0], present=lambda namespace, key: key == KEYS[1])
    one, other = (Node(MemoryDirectory(board, ttl=10.0), name) for name in ("one", "other"))
    one.put(A, *KEYS[:2])
    now[0] = 9.0
    other.directory.step()
    found = other.directory.lookup(A, KEYS[:3], soon())
    assert holders(found) == [{"one"}, {"one"}, set()] and [where.redis for where in found] == [False, True, False]
    now[0] = 10.0
    assert holders(other.directory.lookup(A, KEYS[:1], soon())) == [set()] and not board.holders
    one.directory.step()
    assert holders(other.directory.lookup(A, KEYS[:1], soon())) == [{"one"}]


@pytest.mark.parametrize("durable", [False, True])
def test_what_the_redis_tier_has_is_told_with_the_holders(
    redis_server: Callable[..., RedisServer], on: Any, durable: bool
) -> None:
    server = redis_server(extra=["--appendonly", "yes", "--appendfsync", "always"] if durable else [])
    settings = Tier(server.url, durable="aof" if durable else "no", connect_timeout=2.0, timeout=2.0)
    tier = settings.start(Lru())
    tier.open(departed)
    with on(settings) as part:
        node = Node(part(), "one")
        node.put(A, KEYS[0], KEYS[1])
        blocks = [(key, sealed_block(A, key)) for key in KEYS[1:3]]
        assert tier.put_many(A, blocks, None, soon(), durable=durable) == [True, True]
        found = node.directory.lookup(A, KEYS[:4], soon())
        assert [where.redis for where in found] == [False, True, True, False]
        assert holders(found) == [{"one"}, {"one"}, set(), set()]
        # nothing is noted of it, so nothing can be out of date
        tier.delete_many(A, KEYS[1:2], Deadline.after(10))
        assert [where.redis for where in node.directory.lookup(A, KEYS[:3], soon())] == [False, False, True]
    tier.close()
