"""Which tiers of a store can be used: all of them from the start, or what all nodes share as soon as it can be."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.store.departing import departed
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

log = logging.getLogger(__name__)


def open_tiers(tiered: TieredStore) -> None:
    """Acquires every tier; if one cannot be used, the others are given back.

    A patient store goes without a medium that all nodes share and that cannot be reached: it is `unreached` then.
    """
    opened: list[ColdTier] = []
    tiered.unreached.clear()
    try:
        for tier in tiered.lower:
            try:
                tier.open(partial(departed, tiered, tier.name))
            except Unavailable as error:
                if not tiered.patient or tier.ledger is not None:
                    raise
                log.warning("the %s tier is left out for now: %s", tier.name, error)
                tiered.unreached.append(tier)
            opened.append(tier)
    except BaseException:
        for tier in opened:
            tier.close()
        raise


def reach_again(tiered: TieredStore) -> bool:
    """Tries to open what could not be reached so far; whether nothing is left. For one thread at a time."""
    for tier in list(tiered.unreached):
        try:
            tier.open(partial(departed, tiered, tier.name))
        except CacheStoreError as error:
            log.info("the %s tier is still left out: %s", tier.name, error)
            continue
        log.warning("the %s tier can be used from now on", tier.name)
        tiered.unreached.remove(tier)
    return not tiered.unreached
