"""Nodes that are refused: by a Redis that changes its primary, and by each other."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cachestore.block import Block
from cachestore.cluster.host import StoreHost
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.client import RemoteStore
from cachestore.store.base import Durability, put_blocks
from cachestore.testing import plans_of, write_blocks
from tests.faults.nodes import GRACE, eventually
from tests.faults.values import prompt, right
from tests.faults.wire import SMALL
from tests.redis_servers.sentinel import Sentinel
from tests.redis_servers.server import RedisServer

TIMEOUT = 4.0
KEPT = {"stored", "already_exists"}
WAITS = {"connect_timeout": "500ms", "timeout": "500ms"}


@contextlib.contextmanager
def node(name: str, tables: dict[str, Any], token: str = "") -> Iterator[RemoteStore]:
    """A node of this name, called by who has this token."""
    host = StoreHost({"service": {"port": 0, "drain": 0.1}, **tables}, name)
    try:
        with RemoteStore(host.address(), transports=("stream",), credentials=Credentials(token=token)) as store:
            yield store
    finally:
        host.close()


def durably(store: RemoteStore, keys: Chain, blocks: list[Block]) -> set[str]:
    """The answers to a DURABLE put, in time; none if the call fails."""
    began, statuses = time.monotonic(), set[str]()
    with contextlib.suppress(CacheStoreError):
        plans = plans_of(blocks)
        with store.put(keys.fingerprint, plans, durability=Durability.DURABLE, timeout=TIMEOUT) as put:
            write_blocks(put, blocks)
            put.commit()
            statuses = {str(answer.status) for answer in put.answers}
    assert time.monotonic() - began < TIMEOUT + GRACE
    return statuses


def read(store: RemoteStore, keys: Chain) -> list[str]:
    """From which tiers the blocks come, in time and right; none if the call fails."""
    began, found = time.monotonic(), []
    with contextlib.suppress(CacheStoreError), store.read(keys, timeout=TIMEOUT) as reading:
        found = list(reading)
    assert time.monotonic() - began < TIMEOUT + GRACE
    assert all(right(each.block) for each in found)
    return [each.tier for each in found]


@pytest.mark.slow
def test_r5_nodes_find_each_other_again_after_a_failover_and_nothing_is_acknowledged_falsely(
    redis_sentinel: Callable[..., Sentinel],
) -> None:
    sentinel = redis_sentinel()
    place = {"url": sentinel.url, **WAITS}
    tables = {
        # two copies in Redis: without its replica it keeps no promise
        "tiers": [{"name": "cpu", "capacity": "16MiB"}, {"name": "redis", **place, "durable": "wait", "replicas": 1}],
        "directory": {"name": "redis", "heartbeat": "200ms", "ttl": "2s", **WAITS},
        "peers": {"timeout": "1s"},
    }
    (first, blocks), kept, never, (third, more) = (prompt(SMALL, 4, seed) for seed in range(4))
    with node("a", tables) as a, node("b", tables) as b:
        put_blocks(a, first.fingerprint, blocks)
        eventually(lambda: read(b, first) == ["peer"] * 4)
        assert durably(a, *kept) == {"stored"}
        sentinel.primary.kill()
        assert read(a, first) == ["cpu"] * 4
        assert not durably(a, *never) & KEPT
        read(b, first)
        put_blocks(a, third.fingerprint, more)
        # the replica is the primary now, and hears again who lives and who has what
        eventually(lambda: read(b, third) == ["peer"] * 4, 20.0)
        assert not durably(a, *never) & KEPT, "nobody has a second copy"
        a.clear("cpu")
        assert len(read(b, kept[0])) == 4


def test_y6_a_node_with_a_wrong_token_is_refused_and_computes(
    redis_server: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server, tokens = redis_server(), {name: new_token() for name in ("user", "node", "old")}
    digests = {name: f"sha256:{digest_of(token).hex()}" for name, token in tokens.items()}
    identities = [
        {"name": "user", "role": "admin", "token": digests["user"]},
        {"name": "node", "role": "peer", "token": digests["node"]},
    ]

    def tables(token: str) -> dict[str, Any]:
        file = tmp_path / token
        file.write_text(tokens[token])
        file.chmod(0o600)
        return {
            "tiers": [{"name": "cpu", "capacity": "16MiB"}],
            "directory": {"name": "redis", "heartbeat": "100ms", "server": {"url": server.url}, **WAITS},
            "peers": {"timeout": "1s", "credentials": {"token_file": str(file)}},
            "service": {"port": 0, "drain": 0.1, "identities": identities},
        }

    keys, blocks = prompt(SMALL, 4)
    with (
        node("a", tables("node"), tokens["user"]) as a,
        node("b", tables("old"), tokens["user"]) as b,
        node("c", tables("node"), tokens["user"]) as c,
    ):
        put_blocks(a, keys.fingerprint, blocks)
        for reader in (b, c):
            eventually(lambda reader=reader: reader.lookup(keys).ready == 4)  # type: ignore[misc]
        assert read(b, keys) == []
        # as a reason of its own: who operates it sees that time will not heal it
        assert total(b.stats(), "peer_failures", reason="unauthenticated") == 1
        assert total(b.stats(), "peer_failures") == 1
        # behind it: what has read them holds them too, and would be asked as well
        assert read(c, keys) == ["peer"] * 4
