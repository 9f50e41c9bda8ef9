"""Where the blocks of a chain are, and leases on them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.store.leases import Held, Holding

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def locate(tiered: TieredStore, namespace: bytes, chain: Chain, deadline: Deadline) -> list[Held]:
    """The leading blocks that can be read, and where; nothing is protected yet."""
    index = tiered.index
    found: dict[bytes, Held] = {}
    with index.changed:
        asked = list(chain.keys)
        for position, key in enumerate(chain.keys):
            entry = index.get(Name(namespace, key))
            if entry is None:
                continue
            if not entry.ready or entry.fingerprint != chain.fingerprint:
                del asked[position:]
                break
            found[key] = Held(key, entry, tiered.memory.name)
    for tier in tiered.cold:
        missing = [key for key in asked if key not in found]
        if not missing:
            break
        for key in missing[: tier.leading(namespace, missing, deadline)]:
            found[key] = Held(key, None, tier.name)
    ready = 0
    while ready < len(asked) and asked[ready] in found:
        ready += 1
    return [found[key] for key in asked[:ready]]


def grant(
    tiered: TieredStore, namespace: bytes, chain: Chain, ttl: float, deadline: Deadline, wait: float = 0.0
) -> Holding:
    """A lease on the leading blocks that can be read, after waiting up to `wait` seconds for those being written."""
    _await(tiered, namespace, chain, deadline, wait)
    located = locate(tiered, namespace, chain, deadline)
    with tiered.index.changed:
        blocks: list[Held] = []
        for held in located:
            # it may have left memory, or come back, between the two locks
            entry = tiered.index.get(Name(namespace, held.key))
            if entry is not None and entry.ready and entry.fingerprint == chain.fingerprint:
                blocks.append(Held(held.key, entry, tiered.memory.name))
            elif held.entry is None:
                blocks.append(held)
            elif held.entry.cold:
                blocks.append(Held(held.key, None, min(held.entry.cold)))
            else:
                break
        return tiered.leases.start(namespace, chain.fingerprint, blocks, ttl, tiered.counters(namespace))


def _await(tiered: TieredStore, namespace: bytes, chain: Chain, deadline: Deadline, wait: float) -> None:
    until = Deadline(min(deadline.at, time.monotonic() + wait))
    index = tiered.index
    with index.changed:
        while until.remaining() and any(index.writing(namespace, key) for key in chain.keys):
            index.changed.wait(until.remaining())
