"""Blocks that must survive: acknowledged only by a tier that has them for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import DurabilityUnmet, Overloaded
from cachestore.index import Entry, Name
from cachestore.seal import DURABLE, CorruptBlock
from cachestore.store.copying import copy_to
from cachestore.store.inspection import intact, opened
from cachestore.tiers.base import ColdTier, Found

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def durable_tiers(tiered: TieredStore) -> list[ColdTier]:
    """The tiers that can acknowledge now; DurabilityUnmet if there is none."""
    tiers = [tier for tier in tiered.cold if tier.durable]
    if not tiers:
        raise DurabilityUnmet(
            "no configured tier survives a killed process, so DURABLE cannot be acknowledged; put with CACHE"
        )
    healthy = [tier for tier in tiers if tier.healthy]
    if not healthy:
        raise DurabilityUnmet(f"tier {tiers[0].name} cannot be used now, so DURABLE cannot be acknowledged; try again")
    return healthy


def check_quota(tiered: TieredStore, namespace: bytes, nbytes: int) -> None:
    """Overloaded if `nbytes` more durable ones are beyond what the namespace may keep."""
    quota = tiered.settings.durable_quota
    held = max((tier.ledger.content(namespace).durable for tier in tiered.cold if tier.ledger is not None), default=0)
    if held + nbytes > quota:
        raise Overloaded(
            f"{nbytes} bytes beside the {held} durable ones of this namespace are more than store.durable_quota = "
            f"{quota}; delete some, or raise it"
        )


def secure(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline) -> list[Entry]:
    """Copies sealed blocks, which the caller keeps, to a durable tier; those that one has acknowledged."""
    left = list(entries)
    for tier in durable_tiers(tiered):
        if left:
            copy_to(tiered, tier, left, deadline, durable=True)
        for entry in left:
            entry.durable |= tier.name in entry.cold
        left = [entry for entry in left if not entry.durable]
    return [entry for entry in entries if entry.durable]


def upgrade(
    tiered: TieredStore, namespace: bytes, keys: Sequence[bytes], fingerprint: bytes, deadline: Deadline
) -> dict[bytes, str]:
    """Makes blocks that are there already durable; by key, the tier that acknowledged it."""
    done: dict[bytes, str] = {}
    for tier in durable_tiers(tiered):
        blocks = []
        for key in keys:
            if key not in done:
                data = _whole(tiered, Name(namespace, key), fingerprint, deadline)
                if data is not None:
                    blocks.append((key, data))
        kept = tier.put_many(namespace, blocks, None, deadline, durable=True)
        done.update({key: tier.name for (key, _), ok in zip(blocks, kept, strict=True) if ok})
    with tiered.index.changed:
        for key, name in done.items():
            entry = tiered.index.get(Name(namespace, key))
            if entry is not None and entry.ready:
                entry.durable = True
                entry.cold.add(name)
    return done


def _whole(tiered: TieredStore, name: Name, fingerprint: bytes, deadline: Deadline) -> Buffer | None:
    """The sealed block, marked durable; None if there is no good copy."""
    with tiered.index.changed:
        entry = tiered.index.ready(name.namespace, fingerprint).get(name.key)
        if entry is not None:
            tiered.index.use(entry)
    try:
        if entry is not None and (marked := _marked(entry.slot.bytes, name, fingerprint)) is not None:
            return marked
    finally:
        if entry is not None:
            with tiered.index.changed:
                tiered.index.leave(entry)
    for tier in tiered.cold:
        (data,) = tier.get_many(name.namespace, [name.key], deadline)
        if (marked := _marked(data, name, fingerprint)) is not None:
            return marked
    return None


def _marked(data: Found, name: Name, fingerprint: bytes) -> Buffer | None:
    if data is None or isinstance(data, CorruptBlock):
        return None
    try:
        header = opened(data, name, fingerprint)
    except CorruptBlock:
        return None
    if not intact(header, data[header.size :]):
        return None
    packed = replace(header, flags=header.flags | DURABLE).pack()
    return np.concatenate([np.frombuffer(packed, dtype=np.uint8), data[header.size :]])
