"""Lower tiers let blocks go by themselves: memory relies on those copies no more, spoiled durable ones are repaired."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from cachestore.index import Name
from cachestore.store.repairing import Spoiled, repair
from cachestore.tiers.base import ColdTier, Demoting, Departure

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def departed(tiered: TieredStore, tier: str, departures: Sequence[Departure]) -> None:
    """The lower tier of this name let these blocks go."""
    source = next(lower for lower in tiered.lower if lower.name == tier)
    spoiled: list[Spoiled] = []
    with tiered.index.changed:
        for departure in departures:
            name = Name(departure.namespace, departure.key)
            entry = tiered.index.get(name)
            if entry is not None:
                entry.cold.discard(tier)
            if departure.why == "demoted":
                _demoted(tiered, source, departure)
            if departure.why == "corrupt" and departure.reason:
                tiered.counters(departure.namespace).add("corruptions", tier=tier, reason=departure.reason)
            if departure.durable and departure.why in ("corrupt", "lost"):
                spoiled.append(Spoiled(source, name, departure.why == "lost"))
            if departure.why == "lost" and source.ledger is None:
                tiered.counters(departure.namespace).add("tier_removed", tier=tier, why="lost")
        tiered.repairing.add(spoiled)
        tiered.events.departed(tier, departures)
    # later, and elsewhere: this is a thread of a tier that has just failed
    if spoiled and tiered.mover.submit(partial(repair, tiered, spoiled)) is None:
        with tiered.index.changed:
            tiered.repairing.end(spoiled)
        # one that is there still is found again
        for each in filter(attrgetter("gone"), spoiled):
            tiered.counters(each.name.namespace).add("data_loss", tier=tier)


def _demoted(tiered: TieredStore, above: ColdTier, departure: Departure) -> None:
    """A lower tier handed a block to the one below it, which may not count by itself. Under the lock."""
    if isinstance(above, Demoting) and above.below is not None:
        counters = tiered.counters(departure.namespace)
        counters.add("demoted", tier=above.below.name, reason=departure.reason)
        if above.below.ledger is None:
            counters.add("tier_added", tier=above.below.name)
