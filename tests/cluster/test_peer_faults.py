"""What of other nodes fails, hangs or lies costs a miss, and is tried again."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.peer_tier import TIER
from cachestore.cluster.peers import Peers
from cachestore.directory.memory import Board, MemoryDirectory
from cachestore.directory.redis import Redis as Directory
from cachestore.errors import Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import Run, put_blocks
from cachestore.testing.tiers import soon
from cachestore.tiers.redis import Redis as Server
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, PATIENT, RedisNodes, credit, fake, hosted, read, ready, tables
from tests.redis_servers.server import RedisServer, free_port


def test_a_wrong_entry_heals_with_the_first_miss(nodes: RedisNodes) -> None:
    b = nodes("b")
    nodes("a")
    credit(nodes.redis, "a", *KEYS.keys[:1])
    ready(b, 1)
    assert read(b) == []
    eventually(lambda: b.lookup(KEYS).ready == 0)
    assert total(b.stats(), "directory_wrong") >= 1
    assert total(b.stats(), "read_misses", purpose="reuse") == 6


def test_a_node_that_hangs_costs_its_time_once_and_others_are_read_instead(nodes: RedisNodes) -> None:
    b = nodes("b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with fake(nodes.redis, address, *KEYS.keys):
            ready(b)
            began = time.monotonic()
            assert read(b, timeout=8.0) == []
            assert time.monotonic() - began < 1.0 + 1.0
            assert b.lookup(KEYS).ready == 0, "it is asked again though it has just failed"
            assert total(b.stats(), "peer_failures") == 1
            with pytest.raises(Unavailable, match="tier peer could not be asked"):
                b.delete(KEYS, timeout=5.0)
            put_blocks(nodes("a"), KEYS.fingerprint, BLOCKS)
            ready(b)
            assert len(read(b, timeout=5.0)) == 6


def test_delete_waits_for_nodes_that_the_directory_has_just_lost(nodes: RedisNodes) -> None:
    b = nodes("b")
    with fake(nodes.redis, "127.0.0.1:1", *KEYS.keys):
        ready(b)
        with nodes.redis.client() as client:
            client.flushall()
        # it has joined again; the other, which may have the blocks, did not yet
        eventually(lambda: total(b.stats(), "directory_births") == 2)
        with pytest.raises(Unavailable, match="tier peer could not be asked"):
            b.delete(KEYS, timeout=5.0)
        with pytest.raises(Unavailable, match="tier peer could not be asked"):
            b.clear(timeout=5.0)


def test_a_node_that_is_not_among_the_living_does_not_say_that_all_were_asked(redis_server: Any) -> None:
    directory = Directory(heartbeat=0.1, connect_timeout=2.0, timeout=2.0).start(Server(redis_server().url))
    with Peers(directory, PeerSettings()) as peers:
        assert not peers.remove(lambda peer: 0, soon())
        directory.join("a", "127.0.0.1:1", ())
        assert not peers.remove(lambda peer: 0, soon())
        directory.step()
        assert peers.remove(lambda peer: 0, soon())
        directory.leave()


@pytest.mark.parametrize(("found", "gone"), [([1, 1, 1, 0], True), ([0, 0], True), ([1] * 99, False)])
def test_others_are_told_until_nobody_finds_anything(found: list[int], gone: bool) -> None:
    board = Board()
    peers = Peers(MemoryDirectory(board), PeerSettings())
    peers.directory.join("a", "127.0.0.1:1", ())
    MemoryDirectory(board).join("b", "127.0.0.1:2", ())
    told = iter(found)
    assert peers.remove(lambda peer: next(told), soon()) == gone
    assert not gone or list(told) == []


def test_the_redis_tier_has_what_a_node_has_lost(nodes: RedisNodes) -> None:
    tiers = [{"name": "cpu", "capacity": "16MiB"}, {"name": "redis", "url": nodes.redis.url, **PATIENT}]
    with contextlib.ExitStack() as gone:
        a = gone.enter_context(hosted(tables(nodes.redis, tiers=tiers), "a"))
        with RemoteStore(a.address()) as at_a:
            put_blocks(at_a, KEYS.fingerprint, BLOCKS)
            eventually(lambda: total(at_a.stats(), "tier_added", tier="redis") == 6)
    b = nodes("b", tiers=tiers)
    with fake(nodes.redis, "127.0.0.1:1", *KEYS.keys):
        eventually(lambda: b.lookup(KEYS).runs == (Run(6, TIER, "fake"),))
        assert [each.tier for each in read(b)] == ["redis"] * 6


def test_without_redis_a_node_serves_what_it_has_and_says_all_again_when_it_is_back(
    nodes: RedisNodes,
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    nodes.redis.kill()
    assert len(read(a)) == 6
    assert read(b) == []
    nodes.redis.start()
    ready(b)
    assert len(read(b)) == 6


@contextlib.contextmanager
def process(folder: Path, server: RedisServer, name: str, port: int) -> Iterator[tuple[Any, RemoteStore]]:
    """A node in a process of its own, and its client."""
    file = folder / f"{name}.toml"
    file.write_text(
        f'[[tiers]]\nname = "cpu"\ncapacity = "16MiB"\n[store]\nnode = "{name}"\n'
        '[peers]\ntimeout = "1s"\ncopy_after = 100\n'
        '[directory]\nname = "redis"\nttl = "2s"\nheartbeat = "100ms"\nconnect_timeout = "2s"\ntimeout = "2s"\n'
        f'[directory.server]\nurl = "{server.url}"\n'
    )
    command = [sys.executable, "-m", "cachestore", "serve", "--json", "--port", str(port), "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as serving:
        try:
            assert serving.stdout is not None
            address = json.loads("".join(iter(serving.stdout.readline, "}\n")) + "}")["address"]
            with RemoteStore(address, transports=("stream",)) as store:
                yield serving, store
        finally:
            serving.kill()


@pytest.mark.slow
def test_a_killed_node_is_a_miss_within_the_deadline_and_is_read_again_when_it_is_back(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = redis_server()
    with process(tmp_path, server, "b", 0) as (_, b), process(tmp_path, server, "c", 0) as (_, c):
        with process(tmp_path, server, "a", 0) as (serving, a):
            port = int(a.connection.address.rpartition(":")[2])
            put_blocks(a, KEYS.fingerprint, BLOCKS)
            ready(b)
            assert len(read(b)) == 6
            ready(c)
            serving.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            assert read(b, timeout=5.0) == []
            assert time.monotonic() - began < 1.0 + 1.0
            serving.kill()
            began = time.monotonic()
            assert read(c, timeout=5.0) == []
            assert time.monotonic() - began < 1.0 + 1.0
        eventually(lambda: total(b.stats(), "directory_lives") == 2)
        assert b.lookup(KEYS).ready == c.lookup(KEYS).ready == 0
        with process(tmp_path, server, "a", port) as (_, a):
            put_blocks(a, KEYS.fingerprint, BLOCKS)
            for reader in (b, c):
                ready(reader)
                assert len(read(reader)) == 6


@pytest.mark.slow
def test_while_redis_is_cut_off_reads_end_in_time_and_others_are_found_again_behind_it(
    nodes: RedisNodes,
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    nodes.redis.pause()
    try:
        began = time.monotonic()
        assert len(read(a)) == 6
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        read(b, timeout=3.0)
        assert time.monotonic() - began < 3.0 + 1.0
    finally:
        nodes.redis.resume()
    ready(b)
    eventually(lambda: len(read(b)) == 6)


@pytest.mark.slow
def test_a_node_that_failed_is_tried_again(nodes: RedisNodes) -> None:
    b, port = nodes("b"), free_port()
    with fake(nodes.redis, f"127.0.0.1:{port}", *KEYS.keys):
        ready(b)
        assert read(b) == [] and b.lookup(KEYS).ready == 0
        alone = {"tiers": [{"name": "cpu", "capacity": "16MiB"}], "service": {"port": port}}
        with hosted(alone, "a", port) as host, RemoteStore(host.address()) as a:
            put_blocks(a, KEYS.fingerprint, BLOCKS)
            ready(b)
            assert len(read(b)) == 6
