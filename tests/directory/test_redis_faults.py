"""A Redis that dies, hangs, forgets or is full: wrong for a while, in time, then right."""

import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.directory.redis import RedisDirectory
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.testing.directories import MANY, Node, acquainted, became, holders, stepped
from cachestore.testing.tiers import KEYS, A, soon
from cachestore.tiers.redis import Redis as Server
from tests.directory.looking import found
from tests.redis_servers.cluster import clustered
from tests.redis_servers.server import RedisServer

SECONDS = 0.3
"""The time-out of those that are to be waited for."""
WITHIN = 1.0
"""Seconds beyond its bound that a call may take on a busy machine."""


def pair(part: Callable[..., RedisDirectory], **changes: object) -> tuple[Node, Node]:
    """Two nodes that know each other; the first holds three blocks."""
    one, other = Node(part(**changes), "one"), Node(part(**changes), "other")
    acquainted(one, other)
    one.put(A, *KEYS[:3])
    return one, other


def test_a_killed_server_is_told_all_again_when_it_is_back(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    one, other = pair(part)
    first = one.life.incarnation
    server.kill()
    for _ in range(4):
        assert found(other.directory, *KEYS[:2]) == [set(), set()]
    assert not other.directory.healthy
    assert total(other.directory.figures(), "directory_unasked") == 8
    one.put(A, KEYS[3])
    one.drop(A, KEYS[0])
    server.start()
    became(lambda: stepped(one.directory) and found(other.directory, *KEYS[:4]) == [set(), {"one"}, {"one"}, {"one"}])
    assert other.directory.healthy and one.life.incarnation != first
    assert total(one.directory.figures(), "directory_births") == 2


def test_while_a_server_hangs_nobody_knows_who_lives_now(server: RedisServer, on: Any) -> None:
    with on(Server(server.url)) as part:
        one = Node(part(timeout=SECONDS, connect_timeout=SECONDS / 3), "one")
        assert one.directory.refresh(soon())
        server.pause()
        try:
            begun = time.monotonic()
            assert not one.directory.refresh(Deadline.after(30))
            assert time.monotonic() - begun < SECONDS + WITHIN
            begun = time.monotonic()
            assert not one.directory.refresh(Deadline.after(SECONDS / 3))
            assert time.monotonic() - begun < SECONDS / 3 + WITHIN
            assert one.directory.lives() == (one.life,)
        finally:
            server.resume()
        became(lambda: one.directory.refresh(soon()))


@pytest.mark.parametrize("away", ["hangs", "killed"])
def test_nobody_is_forgotten_while_the_server_cannot_be_told(
    part: Callable[..., RedisDirectory], server: RedisServer, away: str
) -> None:
    one, other = pair(part)
    if away == "hangs":
        server.pause()
    else:
        server.kill()
    try:
        with pytest.raises(Unavailable, match="cannot be told to forget one"):
            other.directory.drop("one", soon())
        assert {life.node for life in other.directory.lives()} == {"one", "other"}
    finally:
        if away == "hangs":
            server.resume()
        else:
            server.start()
    # one that was killed has to be told all again
    became(lambda: stepped(one.directory) and stepped(other.directory) and other.directory.refresh(soon()))
    first = one.life.incarnation
    other.directory.drop("one", soon())
    became(lambda: stepped(one.directory) and one.life.incarnation != first)


def test_after_flushall_all_is_said_again_at_the_rate(part: Callable[..., RedisDirectory], server: RedisServer) -> None:
    one, other = pair(part, rate=2000)
    one.put(A, *MANY)
    expected = [{"one"}] * len(MANY)
    became(lambda: stepped(one.directory) and found(other.directory, *MANY) == expected)
    with server.client() as client:
        client.flushall()
    assert holders(other.directory.lookup(A, MANY[:1], soon())) == [set()]
    begun = time.monotonic()
    became(lambda: stepped(one.directory) and found(other.directory, *MANY) == expected)
    assert time.monotonic() - begun > 0.4
    assert total(one.directory.figures(), "directory_rounds") >= 2


def test_after_flushall_who_did_not_join_again_yet_is_not_taken_for_gone(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    one, other = pair(part)
    third = Node(part(), "third")
    acquainted(one, other, third)
    third.directory.leave()
    became(lambda: stepped(other.directory) and len(other.directory.lives()) == 2)
    first, before = one.life, other.life.incarnation
    with server.client() as client:
        client.flushall()
    became(lambda: stepped(other.directory) and other.life.incarnation != before)
    for _ in range(3):
        time.sleep(0.1)
        stepped(other.directory)
    assert other.directory.lives() == (first, other.life)
    acquainted(one, other)
    became(lambda: stepped(one.directory, other.directory) and other.directory.lives() == (one.life, other.life))
    assert one.life.incarnation != first.incarnation


def test_a_server_that_hangs_costs_the_time_out_and_then_nothing(
    server: RedisServer, on: Any, eventually: Callable[..., None]
) -> None:
    with on(Server(server.url)) as part:
        one, other = pair(part)
        hasty = part(timeout=SECONDS, connect_timeout=SECONDS / 3)
        assert found(hasty, KEYS[0]) == [{"one"}]
        server.pause()
        try:
            begun = time.monotonic()
            assert hasty.lookup(A, KEYS, Deadline.after(30))[0].holders == ()
            assert time.monotonic() - begun < SECONDS + WITHIN
            begun = time.monotonic()
            hasty.lookup(A, KEYS, Deadline.after(0.05))
            assert time.monotonic() - begun < 0.05 + WITHIN
            begun = time.monotonic()
            for _ in range(4):
                hasty.step()
            assert time.monotonic() - begun < 8 * SECONDS + WITHIN and not hasty.healthy
            begun = time.monotonic()
            hasty.wrong(A, KEYS[:1], one.life.incarnation)
            for _ in range(20):
                hasty.lookup(A, KEYS, Deadline.after(30))
            assert time.monotonic() - begun < 3 * SECONDS + WITHIN
        finally:
            server.resume()
        eventually(lambda: found(hasty, KEYS[1]) == [{"one"}] and hasty.healthy)
        # and what was said of a wrong entry meanwhile was not forgotten
        eventually(lambda: stepped(hasty) and found(other.directory, KEYS[0]) == [set()])


def test_what_does_not_fit_the_queue_is_counted_and_said_later(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    node, reader = Node(part(backlog=10), "one"), part()
    server.pause()
    node.held |= {(A, key) for key in MANY[:100]}
    node.directory.announce(A, MANY[:100])
    server.resume()
    assert total(node.directory.figures(), "directory_dropped") == 90
    became(lambda: stepped(node.directory) and found(reader, *MANY[:100]) == [{"one"}] * 100)


@pytest.mark.slow
def test_a_directory_without_memory_left_serves_on_and_counts(
    on: Any, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    with on(Server(server.url)) as part:
        node = Node(part(refresh=1.0), "one")
        node.put(A, KEYS[0])
        with server.client() as client:
            client.config_set("maxmemory", 1)
            node.put(A, *KEYS[1:3])
            assert found(node.directory, *KEYS[:3]) == [{"one"}, set(), set()]
            assert total(node.directory.figures(), "directory_refused") == 2
            client.config_set("maxmemory", 64 << 20)
        became(lambda: found(node.directory, *KEYS[:3]) == [{"one"}] * 3)


def test_who_is_taken_out_while_there_is_no_memory_left_is_out_as_soon_as_there_is(
    on: Any, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server()
    with on(Server(server.url)) as part:
        one, other, reader = Node(part(), "one"), Node(part(), "other"), Node(part(), "reader")
        acquainted(one, other, reader)
        for node in (one, other):
            node.put(A, *KEYS[:3])
        assert found(reader.directory, *KEYS[:3]) == [{"one", "other"}] * 3
        with server.client() as client:
            client.config_set("maxmemory", 1)
            one.drop(A, KEYS[0])
            reader.directory.wrong(A, [KEYS[1]], one.life.incarnation)
            for _ in range(3):
                assert stepped(one.directory) and stepped(reader.directory)
                # what one has seen itself it goes by, whatever the entry says
                assert found(reader.directory, *KEYS[:2]) == [{"one", "other"}, {"other"}]
            waiting = [total(node.directory.figures(), "directory_pending") for node in (one, reader)]
            assert waiting == [1, 1]
            client.config_set("maxmemory", 64 << 20)
        became(lambda: stepped(one.directory) and found(other.directory, KEYS[0]) == [{"other"}])
        became(lambda: stepped(reader.directory) and total(reader.directory.figures(), "directory_pending") == 0)
        assert found(other.directory, *KEYS[1:3]) == [{"other"}, {"one", "other"}]


@pytest.mark.slow
def test_a_lost_node_of_a_cluster_costs_its_share_until_it_is_back(on: Any) -> None:
    with clustered() as servers, on(Server(f"cluster://127.0.0.1:{servers[0].port}")) as part:
        keys = [secrets.token_bytes(32) for _ in range(300)]
        node = Node(part(timeout=SECONDS, connect_timeout=SECONDS), "one")
        node.put(A, *keys)
        became(lambda: found(node.directory, *keys) == [{"one"}] * 300)
        servers[2].kill()
        became(lambda: 100 < found(node.directory, *keys).count({"one"}) < 250)
        first = node.life.incarnation
        assert [life.node for life in node.directory.lives()] == ["one"]
        servers[2].start()
        became(lambda: found(node.directory, *keys) == [{"one"}] * 300)
        assert node.life.incarnation != first
