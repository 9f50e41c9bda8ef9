"""A Redis that dies, hangs, forgets, lies or is cut off, and nodes that die: wrong for a while, in time, then right."""

import json
import logging
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.directory.base import Directory
from cachestore.directory.pulse import Pulse
from cachestore.directory.redis import RedisDirectory
from cachestore.directory.redis_entries import LIVES, entry_name
from cachestore.metrics import total
from cachestore.testing.directories import MANY, Node, acquainted, became, holders, stepped
from cachestore.testing.tiers import KEYS, A, soon
from cachestore.tiers.redis import Redis as Server
from tests.faults.injections import BlackHole
from tests.faults.proxy import Proxy
from tests.redis_servers.cluster import clustered
from tests.redis_servers.server import RedisServer

SECONDS = 0.3
"""The time-out of those that are to be waited for."""

WITHIN = 1.0
"""Seconds beyond its bound that a call may take on a busy machine."""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server()


@pytest.fixture
def part(server: RedisServer, on: Any) -> Iterator[Callable[..., RedisDirectory]]:
    with on(Server(server.url)) as opened:
        yield opened


def found(directory: Directory, *keys: bytes) -> list[set[str]]:
    """Who holds these blocks, for somebody who has just looked who lives."""
    directory.step()
    return holders(directory.lookup(A, keys, soon()))


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


@pytest.mark.slow
@pytest.mark.parametrize("announced_meanwhile", [0, 100])
def test_who_is_cut_off_is_dead_to_the_others_and_comes_back(
    redis_server: Callable[..., RedisServer], on: Any, announced_meanwhile: int
) -> None:
    server = redis_server(tcp=True)
    with Proxy(f"127.0.0.1:{server.port}") as proxy, on(Server(server.url)) as near:
        with on(Server(f"redis://{proxy.address}")) as far:
            cut = Node(far(ttl=0.5, timeout=SECONDS, connect_timeout=SECONDS), "cut")
            other = Node(near(), "other")
            cut.put(A, *KEYS[:2])
            became(lambda: stepped(cut.directory) and found(other.directory, KEYS[0]) == [{"cut"}])
            with proxy.inject(BlackHole()):
                cut.put(A, *MANY[:announced_meanwhile])
                became(lambda: stepped(cut.directory) and found(other.directory, KEYS[0]) == [set()])
                assert found(cut.directory, KEYS[0]) == [set()]
                proxy.reset()
            expected = [{"cut"}] * (2 + announced_meanwhile)
            keys = [*KEYS[:2], *MANY[:announced_meanwhile]]
            became(lambda: stepped(cut.directory) and found(other.directory, *keys) == expected)


@pytest.mark.slow
def test_who_was_buried_lives_another_life_and_what_it_said_is_removed(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    one, other = Node(part(ttl=0.4), "one"), Node(part(), "other")
    one.put(A, *KEYS[:2])
    first = one.life.incarnation
    with server.client() as client:
        became(lambda: stepped(other.directory) and not client.hexists(LIVES[0], first))
        assert [life.node for life in other.directory.lives()] == ["other"]
        name = entry_name(A, KEYS[0])
        became(lambda: found(other.directory, KEYS[0]) == [set()] and client.pttl(name) > 0)
        one.directory.step()
        assert one.life.incarnation != first
        became(lambda: stepped(one.directory) and found(other.directory, *KEYS[:2]) == [{"one"}] * 2)
        assert client.pttl(name) == -1


@pytest.mark.slow
def test_what_the_dead_left_is_removed_though_nobody_asks_for_it(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    one, other = Node(part(), "one"), Node(part(), "other")
    one.put(A, *MANY[:200])
    other.put(A, *MANY[:10])
    one.directory.leave()
    with server.client() as client:
        # one that a process left half changed: it holds nobody, and would stay
        client.set(entry_name(A, MANY[500]), b"")
        # lives of a time when another server had this bucket
        dead = json.dumps(["gone", "gone:1", 0, 1, 1, 1]).encode()
        client.hset(LIVES[77], b"12345678", dead)
        names = [entry_name(A, key) for key in [*MANY[10:200], MANY[500]]]
        became(lambda: stepped(other.directory) and all(client.pttl(name) > 0 for name in names))
        became(lambda: stepped(other.directory) and not client.exists(LIVES[77]))
        assert all(client.pttl(entry_name(A, key)) == -1 for key in MANY[:10])
    assert found(other.directory, *MANY[:10]) == [{"other"}] * 10


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


def test_a_thread_does_what_is_due(part: Callable[..., RedisDirectory], eventually: Callable[..., None]) -> None:
    one, reader = part(), part()
    pulses = [Pulse(one), Pulse(reader)]
    for pulse in pulses:
        pulse.open()
    held = {(A, key) for key in KEYS[:2]}
    one.join("one", "one:1", held)
    eventually(lambda: holders(reader.lookup(A, KEYS[:3], soon())) == [{"one"}, {"one"}, set()])
    one.announce(A, KEYS[2:3])
    one.withdraw(A, KEYS[:1])
    eventually(lambda: holders(reader.lookup(A, KEYS[:3], soon())) == [set(), {"one"}, {"one"}])
    for pulse in pulses:
        pulse.close()
        pulse.close()


def test_a_step_that_fails_is_told_and_not_the_last(
    part: Callable[..., RedisDirectory], caplog: pytest.LogCaptureFixture
) -> None:
    directory, failing = part(), [True]

    def queue() -> int:
        if failing:
            raise RuntimeError("no queue")
        return 3

    with pytest.raises(RuntimeError):
        directory.join("one", "one:1", set(), queue)
    failing.clear()
    directory.join("one", "one:1", set(), queue)
    failing.append(True)
    with caplog.at_level(logging.ERROR):
        became(lambda: stepped(directory) and total(directory.figures(), "directory_failed_steps"))
    failing.clear()
    became(lambda: stepped(directory) and [life.queue for life in directory.lives()] == [3])


def test_a_store_may_announce_under_the_lock_that_guards_what_it_holds(part: Callable[..., RedisDirectory]) -> None:
    lock = threading.Lock()

    class Guarded(set[tuple[bytes, bytes]]):
        def __contains__(self, name: object) -> bool:
            with lock:
                return super().__contains__(name)

    directory, held = part(refresh=0.001), Guarded((A, key) for key in MANY[:50])
    directory.join("one", "one:1", held)
    failures: list[Exception] = []

    def use(turn: Callable[[], object]) -> None:
        try:
            for _ in range(60):
                turn()
        except Exception as error:
            failures.append(error)

    def announce() -> None:
        with lock:
            directory.announce(A, MANY[:50])

    turns = [announce, lambda: directory.lookup(A, MANY[:50], soon()), directory.step, directory.lives]
    threads = [threading.Thread(target=use, args=[turn], daemon=True) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures and not any(thread.is_alive() for thread in threads)
    assert not total(directory.figures(), "directory_failed_steps")
    became(lambda: found(directory, *MANY[:50]) == [{"one"}] * 50)


OTHER = """
import sys
from cachestore.directory.redis import Redis
from cachestore.tiers.redis import Redis as Server
keys = [bytes([number]) * 32 for number in range(int(sys.argv[2]))]
directory = Redis(ttl=1.0, heartbeat=0.1, timeout=2.0, connect_timeout=2.0).start(Server(sys.argv[1]))
directory.open()
directory.join(sys.argv[3], "other:1", {(b"a" * 32, key) for key in keys})
while True:
    directory.step()
    directory.due.wait(directory.every)
"""


@pytest.mark.slow
def test_two_processes_announce_the_same_and_one_is_killed(
    part: Callable[..., RedisDirectory], server: RedisServer
) -> None:
    node = Node(part(), "here")
    node.put(A, *KEYS[:4])
    processes = [
        subprocess.Popen([sys.executable, "-c", OTHER, server.url, str(count), name])
        for count, name in ((6, "first"), (2, "second"))
    ]
    try:
        three, two = {"here", "first", "second"}, {"here", "first"}
        expected = [three, three, two, two, {"first"}, {"first"}]
        became(lambda: found(node.directory, *KEYS[:6]) == expected)
        processes[0].kill()
        became(lambda: found(node.directory, *KEYS[:6]) == [held - {"first"} for held in expected])
        processes[1].send_signal(signal.SIGSTOP)
        became(lambda: found(node.directory, *KEYS[:2]) == [{"here"}] * 2)
        processes[1].send_signal(signal.SIGCONT)
        became(lambda: found(node.directory, *KEYS[:2]) == [{"here", "second"}] * 2)
    finally:
        for process in processes:
            process.kill()
            process.wait()


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
