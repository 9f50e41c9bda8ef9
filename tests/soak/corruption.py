"""Copies that are made wrong on disk and in Redis, and read: as many as were made wrong must be counted."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.testing import plans_of, write_blocks
from tests.faults.values import block_of, right
from tests.soak.node import Node
from tests.soak.plan import SPEC, keys_of
from tests.soak.system import System

FIRST = 1_000_000
"""Prompts that nobody else uses."""

SPOIL: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda value, chance: flipped(value, chance.randrange(len(value))),
    lambda value, chance: value[: chance.randrange(1, len(value))],
    lambda value, chance: value + b"more",
    lambda value, chance: bytes(len(value)),
    lambda value, chance: chance.randbytes(len(value)),
)


@dataclass
class Accounts:
    """Corruptions that were made and read, and those that the store counted for it."""

    made: int = 0
    counted: int = 0
    wrong: int = 0
    skipped: int = 0
    """Episodes in which a copy was not there to be made wrong."""


def flipped(value: bytes, at: int) -> bytes:
    """One bit of it is wrong."""
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


def episode(system: System, number: int, chance: random.Random, accounts: Accounts) -> None:
    """One prompt whose copies of one block are made wrong in both cold tiers, and then read until they are counted."""
    node = system.nodes[number % len(system.nodes)]
    keys = keys_of(FIRST + number)
    blocks = [block_of(key, SPEC) for key in keys.keys]
    key = chance.choice(keys.keys)
    try:
        with node.direct.put(keys.fingerprint, plans_of(blocks), timeout=5.0) as put:
            write_blocks(put, blocks)
            put.commit()
        if not _both_copies(system, node, key):
            accounts.skipped += 1
            return
        before = _counted(node)
        node.direct.clear("cpu", timeout=2.0)
        spoil = chance.choice(SPOIL)
        node.file(key).write_bytes(spoil(node.file(key).read_bytes(), chance))
        with system.redis() as client:
            value = client.get(system.redis_name(key))
            client.set(system.redis_name(key), spoil(bytes(value), chance), ex=100)
        accounts.made += 2
        until = time.monotonic() + 5.0
        while _counted(node) - before < 2 and time.monotonic() < until:
            accounts.wrong += _read(node, keys)
        accounts.wrong += _read(node, keys)
        accounts.counted += _counted(node) - before
        node.direct.delete(keys, timeout=2.0)
    except CacheStoreError:
        accounts.skipped += 1


def _counted(node: Node) -> int:
    figures = node.direct.stats(timeout=2.0)
    return total(figures, "corruptions") - total(figures, "corruptions", tier="transit")


def _both_copies(system: System, node: Node, key: bytes) -> bool:
    until = time.monotonic() + 3.0
    with system.redis() as client:
        while time.monotonic() < until:
            if node.file(key).exists() and client.exists(system.redis_name(key)):
                return True
            time.sleep(0.01)
    return False


def _read(node: Node, keys: Chain) -> int:
    with node.direct.read(keys, timeout=2.0) as reading:
        return sum(not right(block) for block, _ in reading)
