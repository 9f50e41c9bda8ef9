"""Several stores with one Redis are one store: what one has, all can read; who fails costs a miss."""

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

from cachestore.cluster.host import StoreHost
from cachestore.cluster.peers import TIER
from cachestore.directory.redis import Redis as Directory
from cachestore.errors import PermissionDenied, Unavailable
from cachestore.hashing import Chain, namespace_id
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.client import RemoteStore
from cachestore.store.base import Run, Store, put_blocks
from cachestore.testing import random_prompt, small_spec
from cachestore.testing.blocks import same
from cachestore.tiers.redis import Redis as Server
from tests.cluster.conftest import eventually
from tests.redis_servers.server import RedisServer, free_port

KEYS, BLOCKS = random_prompt(small_spec(), 6)
PATIENT = {"connect_timeout": "2s", "timeout": "2s"}
"""A machine that is busy must not look like a Redis that hangs."""


def tables(server: RedisServer, **more: Any) -> dict[str, Any]:
    """A node's configuration."""
    directory = {"name": "redis", "heartbeat": "100ms", "ttl": "2s", "server": {"url": server.url}, **PATIENT}
    return {
        "tiers": [{"name": "cpu", "capacity": "16MiB"}],
        "directory": directory,
        "peers": {"timeout": "1s"},
        "service": {"port": 0, "drain": 0.1},
        **more,
    }


@contextlib.contextmanager
def hosted(tables: dict[str, Any], name: str, port: int = 0) -> Iterator[StoreHost]:
    host = StoreHost(tables, name, port)
    try:
        yield host
    finally:
        host.close()


@pytest.fixture
def nodes(redis_server: Callable[..., RedisServer]) -> Iterator[Callable[..., RemoteStore]]:
    """Starts nodes `a`, `b`, … with one Redis; clients of each."""
    with contextlib.ExitStack() as stack:
        server = redis_server()

        def start(name: str, **more: Any) -> RemoteStore:
            host = stack.enter_context(hosted(tables(server, **more), name))
            return stack.enter_context(RemoteStore(host.address(), transports=("stream",)))

        start.redis = server  # type: ignore[attr-defined]
        yield start


@contextlib.contextmanager
def fake(server: RedisServer, address: str, *keys: bytes) -> Iterator[Any]:
    """A node in the directory that says it holds these blocks, at an address of the test's."""
    part = Directory(heartbeat=0.1, ttl=30.0, connect_timeout=2.0, timeout=2.0).start(Server(server.url))
    held = {(namespace_id(DEFAULT_NAMESPACE), key) for key in keys}
    part.open()
    try:
        part.join("fake", address, held)
        until = time.monotonic() + 10.0
        while total(part.figures(), "directory_announced") < len(keys):
            assert time.monotonic() < until
            part.step()
        yield part
    finally:
        part.leave()
        part.close()


def read(store: Store, keys: Chain = KEYS, timeout: float = 10.0) -> list[Any]:
    with store.read(keys, timeout=timeout) as reading:
        return list(reading)


def ready(store: Store, blocks: int = len(KEYS)) -> None:
    eventually(lambda: store.lookup(KEYS).ready == blocks)


def test_a_node_reads_what_another_has_and_keeps_a_copy_of_what_is_read_often(
    nodes: Callable[..., RemoteStore],
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    assert b.lookup(KEYS).runs == (Run(6, TIER, "a"),)
    for tier in (TIER, TIER):
        found = read(b)
        assert [each.tier for each in found] == [tier] * 6
        assert all(same(each.block, wanted) for each, wanted in zip(found, BLOCKS, strict=True))
    # a reader that leaves as soon as it has the last block may be too quick for its copy
    eventually(lambda: len(read(b)) == 6 and b.lookup(KEYS).runs == (Run(6, "cpu", "b"),))
    ours, theirs = b.stats(), a.stats()
    came = total(ours, "peer_read_blocks")
    assert total(ours, "read_hits", purpose="reuse", tier=TIER) == came >= 12
    # each read is counted once, where it was asked for
    assert total(theirs, "read_hits", purpose="peer") == came and total(theirs, "read_hits", purpose="reuse") == 0
    eventually(lambda: total(a.stats(), "directory_lives") == 2)
    assert total(theirs, "directory_alive") == 1
    assert total(theirs, "directory_announced") == 6


def test_a_node_asks_no_further_for_another_and_nobody_without_the_role_acts_for_a_namespace(
    nodes: Callable[..., RemoteStore],
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    shown = Credentials().for_namespace(namespace_id(DEFAULT_NAMESPACE))
    with RemoteStore(b.connection.address, transports=("stream",), credentials=shown) as as_node:
        assert as_node.lookup(KEYS).ready == 0 and read(as_node) == []
        with pytest.raises(PermissionDenied, match="needs the role"):
            as_node.stats()
        with pytest.raises(PermissionDenied, match="needs the role"):
            put_blocks(as_node, KEYS.fingerprint, BLOCKS)


def test_namespaces_stay_apart_between_nodes_that_know_their_callers(
    nodes: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    tokens = {name: new_token() for name in ("acme", "other", "node")}
    digest = {name: f"sha256:{digest_of(token).hex()}" for name, token in tokens.items()}
    people = [
        {"name": "acme", "role": "writer", "namespace": "acme", "token": digest["acme"]},
        {"name": "other", "role": "writer", "namespace": "other", "token": digest["other"]},
        {"name": "node", "role": "peer", "token": digest["node"]},
    ]
    file = tmp_path / "node.token"
    file.write_text(tokens["node"])
    file.chmod(0o600)
    more = {
        "service": {"port": 0, "drain": 0.1, "identities": people, "in_flight_bytes": "64MiB"},
        "peers": {"timeout": "1s", "credentials": {"token_file": str(file)}},
    }
    address = {name: nodes(name, **more).connection.address for name in ("a", "b")}

    def client(node: str, who: str, namespace: str = "") -> RemoteStore:
        shown = Credentials(token=tokens[who])
        shown = shown.for_namespace(namespace_id(namespace)) if namespace else shown
        return RemoteStore(address[node], transports=("stream",), credentials=shown)

    with client("a", "acme") as at_a, client("b", "acme") as at_b, client("b", "other") as other:
        put_blocks(at_a, KEYS.fingerprint, BLOCKS)
        ready(at_b)
        assert len(read(at_b)) == 6
        assert other.lookup(KEYS).ready == 0 and read(other) == []
    with client("a", "other", "acme") as thief, pytest.raises(PermissionDenied, match="is no peer"):
        thief.lookup(KEYS)
    with client("a", "node") as nobody, pytest.raises(PermissionDenied):
        nobody.lookup(KEYS)


def test_what_is_deleted_is_gone_from_every_node(nodes: Callable[..., RemoteStore]) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    assert b.delete(KEYS) == 6
    assert a.lookup(KEYS).ready == 0
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    b.clear()
    assert a.lookup(KEYS).ready == 0


def test_a_wrong_entry_heals_with_the_first_miss(nodes: Callable[..., RemoteStore]) -> None:
    a, b = nodes("a"), nodes("b")
    with fake(nodes.redis, a.connection.address, *KEYS.keys[:1]):  # type: ignore[attr-defined]
        ready(b, 1)
        assert read(b) == []
        eventually(lambda: b.lookup(KEYS).ready == 0)
        assert total(b.stats(), "directory_wrong") >= 1
        assert total(b.stats(), "read_misses", purpose="reuse") == 6


def test_a_node_that_hangs_costs_its_time_once_and_others_are_read_instead(nodes: Callable[..., RemoteStore]) -> None:
    b = nodes("b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with fake(nodes.redis, address, *KEYS.keys):  # type: ignore[attr-defined]
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


def test_the_redis_tier_has_what_a_node_has_lost(nodes: Callable[..., RemoteStore]) -> None:
    tiers = [{"name": "cpu", "capacity": "16MiB"}, {"name": "redis", "url": nodes.redis.url, **PATIENT}]  # type: ignore[attr-defined]
    with contextlib.ExitStack() as gone:
        a = gone.enter_context(hosted(tables(nodes.redis, tiers=tiers), "a"))  # type: ignore[attr-defined]
        with RemoteStore(a.address()) as at_a:
            put_blocks(at_a, KEYS.fingerprint, BLOCKS)
            eventually(lambda: total(at_a.stats(), "tier_added", tier="redis") == 6)
    b = nodes("b", tiers=tiers)
    with fake(nodes.redis, "127.0.0.1:1", *KEYS.keys):  # type: ignore[attr-defined]
        eventually(lambda: b.lookup(KEYS).runs == (Run(6, TIER, "fake"),))
        assert [each.tier for each in read(b)] == ["redis"] * 6


def test_without_redis_a_node_serves_what_it_has_and_says_all_again_when_it_is_back(
    nodes: Callable[..., RemoteStore],
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    nodes.redis.kill()  # type: ignore[attr-defined]
    assert len(read(a)) == 6
    assert read(b) == []
    nodes.redis.start()  # type: ignore[attr-defined]
    ready(b)
    assert len(read(b)) == 6


@contextlib.contextmanager
def process(folder: Path, server: RedisServer, name: str, port: int) -> Iterator[tuple[Any, RemoteStore]]:
    """A node in a process of its own, and its client."""
    file = folder / f"{name}.toml"
    file.write_text(
        f'[[tiers]]\nname = "cpu"\ncapacity = "16MiB"\n[store]\nnode = "{name}"\n[peers]\ntimeout = "1s"\n'
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
    nodes: Callable[..., RemoteStore],
) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    nodes.redis.pause()  # type: ignore[attr-defined]
    try:
        began = time.monotonic()
        assert len(read(a)) == 6
        assert time.monotonic() - began < 1.0
        began = time.monotonic()
        read(b, timeout=3.0)
        assert time.monotonic() - began < 3.0 + 1.0
    finally:
        nodes.redis.resume()  # type: ignore[attr-defined]
    ready(b)
    eventually(lambda: len(read(b)) == 6)


@pytest.mark.slow
def test_a_node_that_failed_is_tried_again(nodes: Callable[..., RemoteStore]) -> None:
    b, port = nodes("b"), free_port()
    with fake(nodes.redis, f"127.0.0.1:{port}", *KEYS.keys):  # type: ignore[attr-defined]
        ready(b)
        assert read(b) == [] and b.lookup(KEYS).ready == 0
        alone = {"tiers": [{"name": "cpu", "capacity": "16MiB"}], "service": {"port": port}}
        with hosted(alone, "a", port) as host, RemoteStore(host.address()) as a:
            put_blocks(a, KEYS.fingerprint, BLOCKS)
            ready(b)
            assert len(read(b)) == 6
