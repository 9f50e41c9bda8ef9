"""Copies that a cold tier has and that this store cannot read: of another key, or of none, or too large for it.

They are somebody else's to read, so they stay; but what is looked up or put here must not take them for stored. Only
reading tells, so that is when they are noted. A note ends by itself: another store may have put a readable copy there
since.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from threading import Lock
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline, held_until
from cachestore.index import Name
from cachestore.seal import CorruptBlock
from cachestore.store.inspection import for_others, opened
from cachestore.tiers.base import ColdTier, Found

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

MOST = 1 << 16
"""Copies noted at once; beyond, the one noted longest ago is forgotten, and found out again by who reads it."""

TOGETHER = 8
"""Copies that are looked at together."""

SECONDS = 600.0
"""How long a note holds."""


@dataclass(eq=False)
class Unreadable:
    """The copies noted, by tier, namespace and key. Locks itself."""

    way: Lock = field(default_factory=Lock)
    """Held while copies are removed."""
    _ends: dict[tuple[str, bytes, bytes], float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def note(self, tier: str, namespace: bytes, key: bytes) -> None:
        """A reader found this copy unreadable."""
        at = tier, namespace, key
        with self._lock:
            self._ends.pop(at, None)
            self._ends[at] = time.monotonic() + SECONDS
            if len(self._ends) > MOST:
                del self._ends[next(iter(self._ends))]

    def has(self, tier: str, namespace: bytes, key: bytes) -> bool:
        """Whether a copy is noted, so that it must count as missing."""
        # most stores never note anything, and a dict answers whole
        return bool(self._ends) and self._ends.get((tier, namespace, key), 0.0) > time.monotonic()

    def leading(self, tier: str, namespace: bytes, keys: Sequence[bytes]) -> Sequence[bytes]:
        """The first of these keys, up to one whose copy is noted."""
        if not self._ends:
            return keys
        return list(takewhile(lambda key: not self.has(tier, namespace, key), keys))

    def among(self, tier: str, namespace: bytes, keys: Sequence[bytes]) -> list[bytes]:
        """Those of these copies that were ever noted, also where that holds no more."""
        return [key for key in keys if (tier, namespace, key) in self._ends] if self._ends else []

    def forget(self, tier: str, namespace: bytes, keys: Sequence[bytes]) -> None:
        """Takes the notes of these copies back."""
        with self._lock:
            for key in keys:
                self._ends.pop((tier, namespace, key), None)


def seen(tiered: TieredStore, tier: ColdTier, name: Name, fingerprint: bytes, data: Found) -> None:
    """Notes the copy that `data` was read from, if it is unreadable."""
    try:
        if isinstance(data, CorruptBlock):
            raise data
        if data is not None:
            opened(data, name, fingerprint, tiered.memory.largest())
    except CorruptBlock as corrupt:
        if for_others(corrupt, data):
            tiered.unreadable.note(tier.name, *name)


def look(
    tiered: TieredStore, tier: ColdTier, namespace: bytes, keys: Sequence[bytes], fingerprint: bytes, deadline: Deadline
) -> None:
    """Notes the unreadable ones among these copies: behind one such block of a chain there are mostly others."""
    for start in range(0, len(keys), TOGETHER):
        batch = keys[start : start + TOGETHER]
        for key, data in zip(batch, tier.get_many(namespace, batch, deadline), strict=True):
            seen(tiered, tier, Name(namespace, key), fingerprint, data)


def make_way(tiered: TieredStore, tier: ColdTier, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> None:
    """Removes unreadable copies of blocks that are about to be put there: a durable one would keep its place."""
    unreadable = tiered.unreadable
    if not unreadable.among(tier.name, namespace, keys):
        return
    # one at a time: a second deletion would hit what was put since the first
    with held_until(unreadable.way, deadline) as held:
        noted = unreadable.among(tier.name, namespace, keys) if held else []
        if noted and tier.delete_many(namespace, noted, deadline, why="replaced") is not None:
            unreadable.forget(tier.name, namespace, noted)
