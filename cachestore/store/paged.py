"""Leased blocks that lie in pages of other processes: how they come into a lease, and where else they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.store import granting
from cachestore.store.leases import Holding
from cachestore.store.owned_pages import TIER

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

NOWHERE = "", ""
"""Tier and node of a block that is missed."""


def missed(tiered: TieredStore, holding: Holding, block: int, deadline: Deadline) -> None:
    """A reader could not have the page of this block: that is counted, and it is shown to nobody any more."""
    held = holding.blocks[block] if block < len(holding.blocks) else None
    if held is None or held.page is None or holding.over:
        return
    holding.counters.add("corruptions", tier=TIER, reason=tiered.pages.missed(held.page))
    leave(tiered, holding, block, deadline)


def leave(tiered: TieredStore, holding: Holding, first: int, deadline: Deadline) -> None:
    """The blocks from `first` on are read from copies in the tiers, as far as there are any: their hits are those's."""
    paged = [held for held in holding.blocks[first:] if held.page is not None]
    if not paged:
        return
    chain = Chain(holding.fingerprint, tuple(held.key for held in paged))
    located = granting.locate(tiered, holding.namespace, chain, deadline, holding.tiers)
    places = [(run.tier, run.node) for run in located for _ in range(run.blocks)]
    memory = tiered.memory.name
    with tiered.index.changed:
        if holding.over:
            return
        ready = tiered.index.ready(holding.namespace, holding.fingerprint)
        for held, (tier, node) in zip(paged, [*places, *[NOWHERE] * len(paged)], strict=False):
            held.page = None
            if held.entry is None and held.key in ready:
                held.entry = ready[held.key]
                tiered.index.use(held.entry)
            # what has left memory since it was looked for is missed
            gone = NOWHERE if tier == memory else (tier, node)
            held.tier, held.node = (memory, "") if held.entry is not None else gone
