"""How much of a prefix is stored, and how much behind that is being written. Looking changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.store.base import Lookup, Run
from cachestore.store.granting import locate
from cachestore.store.owned_page import Show
from cachestore.store.owned_pages import TIER
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def look(
    tiered: TieredStore,
    namespace: bytes,
    chain: Chain,
    show: Show | None,
    tiers: Sequence[ColdTier],
    deadline: Deadline,
) -> Lookup:
    """What there is of `chain`: the pages that `show` has for its caller, then memory and `tiers`."""
    paged = len(show(chain)) if show is not None else 0
    rest = Chain(chain.fingerprint, chain.keys[paged:]) if paged else chain
    runs = locate(tiered, namespace, rest, deadline, tiers)
    if paged:
        runs = (Run(paged, TIER, tiered.settings.node), *runs)
    ready = sum(run.blocks for run in runs)
    with tiered.index.changed:
        behind = takewhile(lambda key: tiered.index.writing(namespace, key), chain.keys[ready:])
        writing = sum(1 for _ in behind)
    return Lookup(ready, runs, writing)
