"""Copies of blocks in memory to the cold tiers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def copy_down(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline) -> None:
    """Copies blocks, which the caller keeps in use, to the first cold tier that takes them."""
    with tiered.index.changed:
        left = [entry for entry in entries if not entry.gone]
        for entry in left:
            entry.withdrawn = False
    for tier in tiered.cold:
        groups: dict[tuple[bytes, float], list[Entry]] = {}
        for entry in left:
            groups.setdefault((entry.name.namespace, entry.ends), []).append(entry)
        for (namespace, ends), group in groups.items():
            # a copy lives no longer than the block
            ttl = None if ends == math.inf else max(1e-3, ends - time.monotonic())
            blocks = [(entry.name.key, entry.slot.bytes) for entry in group]
            kept = tier.put_many(namespace, blocks, ttl, deadline)
            _copied(tiered, tier, namespace, [entry for entry, ok in zip(group, kept, strict=True) if ok], deadline)
        left = [entry for entry in left if tier.name not in entry.cold and not entry.withdrawn]


def _copied(
    tiered: TieredStore, tier: ColdTier, namespace: bytes, entries: Sequence[Entry], deadline: Deadline
) -> None:
    with tiered.index.changed:
        stale = [entry for entry in entries if entry.withdrawn]
        for entry in entries:
            if not entry.withdrawn:
                entry.cold.add(tier.name)
    tiered.counters(namespace).add("tier_added", len(entries) - len(stale), tier=tier.name)
    if stale:
        tier.delete_many(namespace, [entry.name.key for entry in stale], deadline)
