"""A prefix is pinned: brought into memory under a lease, then kept there for a time."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.store.leases import Holding

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def pin(tiered: TieredStore, holding: Holding, chain: Chain, ttl: float, deadline: Deadline) -> int:
    """Pins for `ttl` seconds what `holding` has of `chain`, and ends the holding; how many blocks are pinned."""
    try:
        tiered.promotion.fetch(holding, holding.tiers, deadline)
        with tiered.index.changed:
            ready = tiered.index.ready(holding.namespace, chain.fingerprint)
            entries = [ready[key] for key in takewhile(ready.__contains__, chain.keys)]
            pinned = tiered.pins.pin(entries, ttl)
        tiered.upkeep.pinned(entries[:pinned])
        return pinned
    finally:
        with tiered.index.changed:
            tiered.leases.end(holding)
