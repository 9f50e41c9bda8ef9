"""Keys and namespaces nobody should give."""

import time
from dataclasses import replace

import pytest

from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.store.base import BlockPlan, put_blocks
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore
from cachestore.testing import plans_of, random_prompt, same
from tests.store.abuse.values import SPEC, read

STRANGE = [
    b"../../../../../../etc/passwd".ljust(32, b"\0"), bytes(32), b"\xff" * 32, b"*" * 32, b"{" + b"}" * 31,
    b"\r\n$3\r\nDEL\r\n$1\r\nx\r\n".ljust(32, b"\n"), b"'; DROP TABLE blocks; --".ljust(32), b"%s%n" * 8,
]  # fmt: skip
"""Keys that would mean something in a path, a Redis command, pattern or hash tag, SQL or a format."""


@pytest.mark.parametrize("tier", ["cpu", "disk", "redis"])
def test_keys_are_bytes_and_mean_nothing_in_any_medium(tiered: TieredStore, store: LocalStore, tier: str) -> None:
    _, values = random_prompt(SPEC, len(STRANGE))
    blocks = [replace(block, key=key) for block, key in zip(values, STRANGE, strict=True)]
    keys = Chain(b"f" * 32, tuple(STRANGE))
    put_blocks(store, keys.fingerprint, blocks)
    assert tiered.settle()
    for other in {"cpu", "disk", "redis"} - {tier}:
        store.clear(other)
    for block in blocks:
        (found,) = read(store, Chain(keys.fingerprint, (block.key,)))
        assert same(found, block)
    assert store.delete(Chain(keys.fingerprint, (b"*" * 32,))) == 1
    ready = [store.lookup(Chain(keys.fingerprint, (key,))).ready for key in STRANGE]
    assert ready == [int(key != b"*" * 32) for key in STRANGE]


@pytest.mark.parametrize("size", [0, 31, 33, 1_000_000])
def test_keys_of_another_length_are_refused(store: LocalStore, size: int) -> None:
    with pytest.raises(InvalidArgument, match="32 bytes"):
        BlockPlan(bytes(size), 1, SPEC.planes())
    with pytest.raises(InvalidArgument, match="after must be the 32-byte key"):
        store.put(b"f" * 32, plans_of(random_prompt(SPEC, 1)[1]), after=bytes(size))


def test_no_keys_and_a_hundred_thousand(store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 1)
    put_blocks(store, keys.fingerprint, blocks)
    nothing = Chain(keys.fingerprint, ())
    assert store.lookup(nothing).ready == 0 == store.delete(nothing) and read(store, nothing) == []
    many = Chain(keys.fingerprint, keys.keys + tuple(number.to_bytes(32, "big") for number in range(100_000)))
    assert store.lookup(many).ready == 1 == store.lease(many, ttl=0.01).blocks
    assert all(map(same, read(store, many), blocks)) and store.pin(many, 0.01) == 1 == store.delete(many)
    time.sleep(0.02)
    store.tiered.expire()


def test_the_same_key_again_and_again_is_refused(store: LocalStore) -> None:
    keys, blocks = random_prompt(SPEC, 1)
    with pytest.raises(InvalidArgument, match="must not repeat"):
        Chain(keys.fingerprint, keys.keys * 100_000)
    with pytest.raises(InvalidArgument, match="must not repeat"):
        store.put(keys.fingerprint, plans_of(blocks * 3))


@pytest.mark.parametrize("name", ["x" * 1_000_000, "a@b", "../a", "a\0b", "\n", "\u0430"])
def test_a_strange_namespace_is_one_of_its_own(tiered: TieredStore, store: LocalStore, name: str) -> None:
    other = tiered.namespace(name)
    keys, blocks = random_prompt(SPEC, 2)
    put_blocks(other, keys.fingerprint, blocks)
    assert tiered.settle() and all(map(same, read(other, keys), blocks))
    assert store.lookup(keys).ready == 0 == store.delete(keys) == store.clear()
    assert len(read(other, keys)) == 2
