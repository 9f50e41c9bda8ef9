"""A small sealed block that is put, read back and removed, to see whether a tier keeps blocks.

It lies in a namespace that no identity can have, so nobody finds it and nobody's figures count it.
"""

import os
import time
from typing import NamedTuple

import numpy as np

from cachestore.block import Buffer, Half, PlaneId
from cachestore.codecs.base import RAW
from cachestore.deadline import Deadline, held_until
from cachestore.hashing import namespace_id
from cachestore.plane_table import Stored, table_of
from cachestore.seal import CorruptBlock, Header, aligned, checksum
from cachestore.store.tiered import TieredStore
from cachestore.tiers.base import ColdTier

NAMESPACE = "health of this store"
"""No identity's: names of identities and namespaces have no blanks."""

BYTES = 1024
TTL = 60.0
"""Seconds after which one that could not be removed is gone."""

_ID = namespace_id(NAMESPACE)


class Canary(NamedTuple):
    """The key of a block, and all its bytes."""

    key: bytes
    block: Buffer


def new_canary() -> Canary:
    """Another one than any before: what comes back from an earlier one does not pass for it."""
    key, payload = os.urandom(32), np.zeros(aligned(BYTES), dtype=np.uint8)
    payload[:BYTES] = np.frombuffer(os.urandom(BYTES), dtype=np.uint8)
    check = checksum(payload[:BYTES])
    table = table_of([PlaneId(0, Half.K, 0, 2, BYTES)], [Stored(RAW, 0, BYTES, check, check)])
    ends = int((time.time() + TTL) * 1000)
    header = Header(_ID, key, key, 1, table, bytes(16), 0, payload_bytes=payload.nbytes, expires=ends)
    return Canary(key, np.concatenate([np.frombuffer(header.pack(), dtype=np.uint8), payload]))


def kept_below(tier: ColdTier, deadline: Deadline) -> bool:
    """Whether a block that is put into this tier comes back as it was."""
    key, block = new_canary()
    try:
        if tier.put_many(_ID, [(key, block)], TTL, deadline) != [True]:
            return False
        (found,) = tier.get_many(_ID, [key], deadline)
        return isinstance(found, np.ndarray) and _same(found, block)
    finally:
        tier.delete_many(_ID, [key], deadline)


def kept_in_memory(store: TieredStore, deadline: Deadline) -> bool:
    """The same of the store's memory. Nothing makes way for it: memory that is full of blocks keeps them."""
    block = new_canary().block
    changed = store.index.changed
    with held_until(changed, deadline) as held:
        if not held:
            return False
        slot = store.memory.take(_ID, block.nbytes)
        if slot is None:
            return store.memory.usage().used > 0
    try:
        slot.bytes[:] = block
        return _same(slot.bytes.copy(), block)
    finally:
        with changed:
            store.memory.give(slot)


def _same(found: Buffer, block: Buffer) -> bool:
    try:
        header, wanted = Header.parse(found), Header.parse(block)
        header.check_identity(wanted.namespace, wanted.key, wanted.fingerprint)
    except CorruptBlock:
        return False
    # what a tier may add to a header is its own business
    return np.array_equal(found[header.size :], block[wanted.size :])
