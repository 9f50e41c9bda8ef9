"""Several stores with one Redis are one store: what one has, all can read."""

from pathlib import Path

import pytest

from cachestore.cluster.peer_tier import TIER
from cachestore.errors import PermissionDenied
from cachestore.hashing import namespace_id
from cachestore.metrics import total
from cachestore.service.auth.credentials import Credentials
from cachestore.service.auth.identity import DEFAULT_NAMESPACE
from cachestore.service.auth.tokens import digest_of, new_token
from cachestore.service.client import RemoteStore
from cachestore.store.base import Run, put_blocks
from cachestore.testing.blocks import same
from tests.cluster.conftest import eventually
from tests.cluster.peer_nodes import BLOCKS, KEYS, RedisNodes, read, ready


def test_a_node_reads_what_another_has_and_keeps_a_copy_of_what_is_read_often(
    nodes: RedisNodes,
) -> None:
    a, b = nodes("a"), nodes("b", peers={"timeout": "1s", "copy_after": 2})
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
    nodes: RedisNodes,
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


def test_namespaces_stay_apart_between_nodes_that_know_their_callers(nodes: RedisNodes, tmp_path: Path) -> None:
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


def test_what_is_deleted_is_gone_from_every_node(nodes: RedisNodes) -> None:
    a, b = nodes("a"), nodes("b")
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    assert b.delete(KEYS) == 6
    assert a.lookup(KEYS).ready == 0
    put_blocks(a, KEYS.fingerprint, BLOCKS)
    ready(b)
    b.clear()
    assert a.lookup(KEYS).ready == 0
