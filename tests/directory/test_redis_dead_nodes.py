"""Nodes that die, are cut off or are buried: what they said is nobody's word any more, until they are back."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.directory.base import Life
from cachestore.directory.redis import RedisDirectory
from cachestore.directory.redis_entries import LIVES, entry_name
from cachestore.directory.redis_lives import Lives, Note, Roll
from cachestore.testing.directories import MANY, Node, became, stepped
from cachestore.testing.tiers import KEYS, A
from cachestore.tiers.redis import Redis as Server
from tests.directory.looking import found
from tests.faults.injections import BlackHole
from tests.faults.proxy import Proxy
from tests.redis_servers.server import RedisServer

SECONDS = 0.3
"""The time-out of those that are to be waited for."""


def test_who_was_lost_with_a_server_is_dead_when_its_time_is_over() -> None:
    lives, note = Lives(), Note(Life("one", "one:1", b"12345678"), 0, 300, 300)
    lives.learn(b"roll", Roll({note.life.incarnation: note}, 0, False))
    for lost in (True, False):
        lives.learn(b"roll", Roll({}, 0, lost), lost)
        assert lives.all() == (note.life,)
    time.sleep(0.3)
    assert lives.all() == ()
    lives.learn(b"roll", Roll({}, 300, False))
    assert lives.find(note.life.incarnation) is None


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
