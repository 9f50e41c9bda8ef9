"""Flipped, cut and foreign values in any tier: peers served them, here they are a counted miss, and never unpickled."""

import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachestore.metrics import total
from cachestore.seal import Header
from cachestore.store.base import Verdict, put_blocks
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.testing import plans_of, random_prompt, same, small_spec, write_blocks
from tests.redis_servers.server import RedisServer, running

SPEC = small_spec()
TIERS = ["cpu", "gpu", "disk", "redis"]
Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def one_server() -> Iterator[RedisServer]:
    with running() as start:
        yield start()


@pytest.fixture
def redis_server(one_server: RedisServer) -> Callable[[], RedisServer]:
    """The same for all of these tests, empty: none of them harms it."""
    with one_server.client() as client:
        client.flushall()
    return lambda: one_server


def flipped(value: bytes) -> bytes:
    return value[:-1] + bytes([value[-1] ^ 1])


SPOILS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "flipped": lambda value, other: flipped(value),
    "header flipped": lambda value, other: value[:50] + bytes([value[50] ^ 128]) + value[51:],
    "half": lambda value, other: value[: len(value) // 2],
    "header alone": lambda value, other: value[:640],
    "nothing": lambda value, other: b"",
    "longer": lambda value, other: value + b"more",
    "swapped": lambda value, other: other,
    "zeros": lambda value, other: bytes(len(value)),
    "pickle": lambda value, other: pickle.dumps({"kv": bytes(1000)}),
    "numpy": lambda value, other: b"\x93NUMPY\x01\x00" + bytes(1000),
    "torch": lambda value, other: b"PK\x03\x04" + bytes(1000),
}


@pytest.mark.parametrize("tier", ["disk", "redis"])
@pytest.mark.parametrize("how", SPOILS)
def test_b12_a_spoiled_value_is_neither_served_nor_unpickled(open_node: Opener, tier: str, how: str) -> None:
    node = open_node(tiers="disk redis")
    keys, blocks = node.stored(3)
    node.only_in(tier, keys)
    spoiled, other = (node.value(tier, key) for key in keys.keys[1:])
    node.replace(tier, keys.keys[1], SPOILS[how](spoiled, other))
    hook = Unpickled()
    assert [same(block, blocks[0]) for block in node.read(keys)] == [True] and hook.seen() == []
    figures = node.local.stats()
    assert total(figures, "corruptions", tier=tier) == total(figures, "corruptions") == 1
    assert (total(figures, "read_hits"), total(figures, "read_corrupt"), total(figures, "read_misses")) == (1, 1, 1)
    assert total(figures, "tier_removed", tier=tier, why="corrupt") == 1
    assert node.tiered.settle() and node.store.lookup(keys).ready == 1
    # the next put heals it
    statuses = [str(answer.status) for answer in put_blocks(node.store, keys.fingerprint, blocks)]
    assert statuses == ["already_exists", "stored", "already_exists"]
    assert all(map(same, node.read(keys), blocks))


class Unpickled:
    """Which classes the unpickler looks up from now on, in this process."""

    active: "Unpickled | None" = None
    hooked = False

    def __init__(self) -> None:
        self.found: list[Any] = []
        Unpickled.active = self
        if not Unpickled.hooked:
            # an audit hook stays for as long as the process
            sys.addaudithook(Unpickled._audit)
            Unpickled.hooked = True

    @staticmethod
    def _audit(event: str, arguments: Any) -> None:
        if event == "pickle.find_class" and Unpickled.active is not None:
            Unpickled.active.found.append(arguments)

    def seen(self) -> list[Any]:
        Unpickled.active = None
        return self.found


def test_the_hook_sees_who_unpickles() -> None:
    hook = Unpickled()
    pickle.loads(pickle.dumps(Unpickled))
    assert hook.seen()


@pytest.mark.parametrize("tier", TIERS)
def test_a_flipped_byte_in_any_tier_is_a_miss(open_node: Opener, tier: str) -> None:
    node = open_node()
    keys, blocks = node.stored(3)
    node.only_in(tier, keys)
    node.replace(tier, keys.keys[1], flipped(node.value(tier, keys.keys[1])))
    assert [same(block, blocks[0]) for block in node.read(keys)] == [True]
    figures = node.local.stats()
    assert total(figures, "corruptions", tier=tier) == total(figures, "corruptions") == 1
    assert total(figures, "tier_removed", tier=tier, why="corrupt") == total(figures, "read_corrupt") == 1


@pytest.mark.slow
def test_d6_any_flipped_bit_of_a_file_is_a_counted_miss(tmp_path: Path) -> None:
    disk = {"name": "disk", "path": str(tmp_path), "capacity": "1MiB"}
    tiers = [{"name": "cpu", "capacity": "1MiB"}, disk]
    keys, blocks = random_prompt(SPEC, 1)
    random = np.random.default_rng(6)
    with compose({"tiers": tiers, "codecs": {"name": "raw"}, "store": {"write": "through"}}) as tiered:
        store = tiered.namespace("a")
        for injected in range(1, 2001):
            put_blocks(store, keys.fingerprint, blocks)
            assert tiered.settle() and store.clear("cpu") == 1
            (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
            data = np.fromfile(file, np.uint8)
            header = Header.parse(data)
            # between planes lie bytes that are nobody's
            planes = [(row.offset, row.stored_bytes) for row in header.stored(range(len(header.table)))]
            covered = [*range(header.size), *(header.size + at + n for at, size in planes for n in range(size))]
            data[random.choice(covered)] ^= 1 << int(random.integers(8))
            data.tofile(file)
            with store.read(keys) as reading:
                assert list(reading) == []
            figures = store.stats()
            assert total(figures, "corruptions", tier="disk") == total(figures, "read_corrupt") == injected


@pytest.mark.parametrize("spoiled", [1, 2, 3, 4])
def test_the_first_good_copy_is_served_whatever_was_spoiled_before_it(open_node: Opener, spoiled: int) -> None:
    node = open_node()
    keys, blocks = node.stored(1)
    assert all(map(same, node.read(keys), blocks)) and node.tiered.settle()
    for tier in TIERS[:spoiled]:
        node.replace(tier, keys.keys[0], flipped(node.value(tier, keys.keys[0])))
    # in this process the read itself goes on to the next copy; over gRPC its reader finds out, and the next read does
    reads: list[list[str]] = [] if isinstance(node.store, LocalStore) else [[]] * min(spoiled, len(TIERS))
    for expected in [*reads, TIERS[spoiled : spoiled + 1]]:
        with node.store.read(keys) as reading:
            got = list(reading)
        assert [tier for _, tier in got] == expected and all(same(block, blocks[0]) for block, _ in got)
    assert total(node.local.stats(), "corruptions") == spoiled


@pytest.mark.parametrize("tier", TIERS)
def test_a_good_copy_stays_though_its_reader_says_it_is_corrupt(open_node: Opener, tier: str) -> None:
    node = open_node(prefetch=False)
    keys, blocks = node.stored(2)
    node.only_in(tier, keys)
    node.store.release(node.store.lease(keys), [Verdict.CORRUPT] * 2)
    figures = node.local.stats()
    assert total(figures, "corruptions", tier="transit") == total(figures, "corruptions") == 2
    assert all(map(same, node.read(keys), blocks))


def test_what_was_removed_and_written_anew_is_never_read_as_it_was(open_node: Opener) -> None:
    node = open_node()
    for seed in range(5):
        keys, _ = random_prompt(SPEC, 3)
        values = [
            replace(block, key=key) for key, block in zip(keys.keys, random_prompt(SPEC, 3, seed)[1], strict=True)
        ]
        with node.store.put(keys.fingerprint, plans_of(values)) as put:
            write_blocks(put, values)
            put.commit()
        for _ in range(3):
            # the third read finds the copy on the device, which must be of this value
            assert all(map(same, node.read(keys), values)) and node.tiered.settle()
            node.store.clear("cpu")
        assert node.store.delete(keys) == 3 and node.store.lookup(keys).ready == 0
