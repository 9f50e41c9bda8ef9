"""A Redis that lies: whatever strangers wrote under the directory's names is nobody's, and goes."""

from collections.abc import Callable

import pytest

from cachestore.directory.redis import RedisDirectory
from cachestore.directory.redis_entries import LIVES, entry_name
from cachestore.metrics import total
from cachestore.testing.directories import Node, became, stepped
from cachestore.testing.tiers import KEYS, A
from tests.directory.looking import found
from tests.redis_servers.server import RedisServer


@pytest.mark.parametrize("value", [b"", b"x" * 1000, b"+" * 9, b"\xff" * 90, b"+" + b"z" * 8, None])
def test_an_entry_of_anything_is_no_holder_and_mended(
    part: Callable[..., RedisDirectory], server: RedisServer, value: bytes | None
) -> None:
    node, reader = Node(part(), "one"), part()
    name = entry_name(A, KEYS[0])
    with server.client() as client:
        client.rpush(name, "a") if value is None else client.set(name, value)
        assert found(reader, *KEYS[:2]) == [set(), set()] and reader.healthy
        if value:
            became(lambda: found(reader, KEYS[0]) == [set()] and client.pttl(name) != -1)
            node.put(A, KEYS[0])
            became(lambda: found(reader, KEYS[0]) == [{"one"}])
    assert not total(reader.figures(), "directory_failed_steps")


@pytest.mark.parametrize(
    "field, value",
    [
        (b"12345678", b"no json"),
        (b"12345678", b"[" * 100_000),
        (b"12345678", b"[]"),
        (b"12345678", b'["n", "a", 0, 0, 1e300, 1]'),
        (b"12345678", b'{"node": 1}'),
        (b"12345678", b'["n", "a", true, 0, 99999999999999, 1]'),
        (b"12345678", b'["n", "a", 0, 0, 1' + 400 * b"0" + b", 1]"),
        (b"12345678", b'["n", "a", 0, -1, 99999999999999, 1]'),
        (b"12345678", b'["one\\nn", "a", 0, 0, 99999999999999, 1]'),
        (b"12345678", b'["n", "", 0, 0, 99999999999999, 1]'),
        (b"1", b'["n", "a", 0, 0, 99999999999999, 1]'),
        (b"12345678", b"\xff\x00"),
    ],
)
def test_a_life_of_anything_is_none(
    part: Callable[..., RedisDirectory], server: RedisServer, field: bytes, value: bytes
) -> None:
    node = Node(part(), "one")
    node.put(A, KEYS[0])
    with server.client() as client:
        client.hset(LIVES[0], field, value)
        became(lambda: stepped(node.directory) and not client.hexists(LIVES[0], field))
    assert [life.node for life in node.directory.lives()] == ["one"]
    assert found(node.directory, KEYS[0]) == [{"one"}]
