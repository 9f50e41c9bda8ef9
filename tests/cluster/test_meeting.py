"""A node says whom of the others it does not reach: in health, and to whoever operates it."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from cachestore.cli.health import statuses
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.operating import Operating
from cachestore.service.operation import Unmet
from cachestore.store.base import put_blocks
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, RedisNodes, fake

QUICK = {"port": 0, "drain": 0.1, "probe_every": 0.1}


def unmet(address: str, credentials: Credentials | None = None) -> list[Unmet]:
    with contextlib.closing(Operating(address, credentials)) as operated:
        operated.open()
        return list(operated.node(meet=True, timeout=10.0).unmet)


def path(address: str) -> str:
    return statuses(address, 5.0, every=True)["path/peers"]


def test_nodes_on_loopback_of_one_machine_meet(nodes: RedisNodes) -> None:
    a, b = (nodes(name, service=QUICK).connection.address for name in "ab")
    for address in (a, b):
        eventually(lambda at=address: path(at) == "SERVING")
        assert unmet(address) == []


def test_a_node_that_finds_itself_where_another_should_be_says_so(
    nodes: RedisNodes, caplog: pytest.LogCaptureFixture
) -> None:
    a = nodes("a", service=QUICK).connection.address
    eventually(lambda: path(a) == "SERVING")
    with fake(nodes.redis, a) as other:
        other.step()
        eventually(lambda: path(a) == "NOT_SERVING")
        (found,) = unmet(a)
        assert (found.node, found.address) == ("fake", a)
        for text in (found.why, caplog.text):
            assert "not the node that is meant" in text and "set service.host, or service.advertise" in text
    eventually(lambda: path(a) == "SERVING")


def test_two_nodes_of_one_name_are_told_so_and_what_either_has_is_deleted(
    nodes: RedisNodes, caplog: pytest.LogCaptureFixture
) -> None:
    b, earlier = nodes("b"), nodes("a", service=QUICK)
    put_blocks(earlier, KEYS.fingerprint, BLOCKS)
    eventually(lambda: path(earlier.connection.address) == "SERVING")
    later = nodes("a", service=QUICK)
    put_blocks(later, KEYS.fingerprint, BLOCKS)
    # at once, before anybody can know whether the earlier one goes on
    b.delete(KEYS, timeout=5.0)
    assert earlier.lookup(KEYS).ready == later.lookup(KEYS).ready == 0
    for node in (earlier, later):
        eventually(lambda at=node.connection.address: path(at) == "NOT_SERVING")
    at = sorted(node.connection.address for node in (earlier, later))
    assert caplog.text.count(f"two nodes are called a (at {at[0]} and {at[1]})") == 2
    put_blocks(earlier, KEYS.fingerprint, BLOCKS)
    later.clear(timeout=5.0)
    assert earlier.lookup(KEYS).ready == 0


def test_a_node_that_shows_the_wrong_token_names_who_refuses_it(nodes: RedisNodes, tmp_path: Path) -> None:
    tokens = {name: new_token() for name in ("peer", "admin", "wrong")}
    people = [
        {"name": role, "role": role, "token": f"sha256:{digest_of(tokens[role]).hex()}"} for role in ("peer", "admin")
    ]

    def started(name: str, shown: str) -> str:
        file = tmp_path / name
        file.write_text(tokens[shown])
        file.chmod(0o600)
        more: dict[str, Any] = {
            "service": {**QUICK, "identities": people, "in_flight_bytes": "64MiB"},
            "peers": {"timeout": "1s", "credentials": {"token_file": str(file)}},
        }
        return nodes(name, **more).connection.address

    a, b = started("a", "peer"), started("b", "wrong")
    admin = Credentials(token=tokens["admin"])
    eventually(lambda: [each.node for each in unmet(b, admin)] == ["a"])
    (found,) = unmet(b, admin)
    assert "not one that this store knows" in found.why and tokens["wrong"] not in found.why
    assert unmet(a, admin) == []
