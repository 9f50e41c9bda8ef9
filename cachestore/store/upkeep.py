"""What cold tiers need now and then: copies of pinned blocks live on there, what is kept for good is looked after.

A copy that lives for a time of its medium's is renewed for as long as its block is pinned, and lives for that time once
more when the pin ends; so it does when this process is killed, and no copy is left for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry, Name
from cachestore.store.copying import MOVE_SECONDS
from cachestore.tiers.base import Keeping, Renewing

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

EVERY_SECONDS = 1.0
"""How often tiers that others write to are looked after; each decides whether there is anything to do."""

TOGETHER = 1000
"""Copies that are renewed at once."""


@dataclass(eq=False)
class Upkeep:
    """The upkeep of one store's cold tiers, in the background: one round after the other."""

    tiered: TieredStore
    _looked: float = -math.inf
    _renewed: dict[str, float] = field(default_factory=dict)
    _round: Future[None] | None = None

    def tick(self, now: float) -> None:
        """Begins a round if one is due and none is under way; called often."""
        if self._round is not None and not self._round.done():
            return
        looking = [tier for tier in self._kept_elsewhere() if now - self._looked >= EVERY_SECONDS]
        with self.tiered.index.changed:
            renewing = [tier for tier in self._renewing() if self._due(tier, now)] if len(self.tiered.pins) else []
        if looking or renewing:
            self._round = self.tiered.mover.submit(partial(self._go, now, looking, renewing))

    def pinned(self, entries: Sequence[Entry]) -> None:
        """These blocks were pinned: their copies may have little time left."""
        renewing = self._renewing()
        if renewing and entries:
            self.tiered.mover.submit(partial(_renew, renewing, _named(entries)))

    def _kept_elsewhere(self) -> list[Keeping]:
        return [t for t in self.tiered.cold if t.durable and t.ledger is None and isinstance(t, Keeping)]

    def _renewing(self) -> list[Renewing]:
        return [t for t in self.tiered.cold if isinstance(t, Renewing) and t.renewed_within < math.inf]

    def _due(self, tier: Renewing, now: float) -> bool:
        return now - self._renewed.get(tier.name, -math.inf) >= tier.renewed_within

    def _go(self, now: float, looking: Sequence[Keeping], renewing: Sequence[Renewing]) -> None:
        for tier in looking:
            self._looked = now
            tier.look(Deadline.after(MOVE_SECONDS))
        if renewing:
            self._renewed.update({tier.name: now for tier in renewing})
            with self.tiered.index.changed:
                pinned = _named(self.tiered.pins.entries())
            _renew(renewing, pinned)


def _named(entries: Sequence[Entry]) -> list[tuple[Name, float]]:
    """By name, since an entry would hold on to memory that was given up; with the seconds that are left of each."""
    now = time.monotonic()
    return [(entry.name, entry.ends - now) for entry in entries if entry.ends > now]


def _renew(tiers: Sequence[Renewing], pinned: Sequence[tuple[Name, float]]) -> None:
    by_namespace: dict[bytes, list[tuple[bytes, float]]] = {}
    for name, left in pinned:
        by_namespace.setdefault(name.namespace, []).append((name.key, left))
    deadline = Deadline.after(MOVE_SECONDS)
    for tier in tiers:
        for namespace, blocks in by_namespace.items():
            for start in range(0, len(blocks), TOGETHER):
                tier.renew(namespace, blocks[start : start + TOGETHER], deadline)
