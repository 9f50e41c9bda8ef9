"""What the reader of leased blocks says of them at the end of its lease; what it found corrupt is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.index import Name
from cachestore.store.base import Verdict
from cachestore.store.inspection import copy_is_good
from cachestore.store.leases import Held, Holding
from cachestore.store.repairing import discard

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

_OUTCOMES = {Verdict.USED: "hits", Verdict.CORRUPT: "corrupt", Verdict.UNREAD: "misses"}


def settle(tiered: TieredStore, holding: Holding, verdicts: Sequence[Verdict], deadline: Deadline) -> None:
    """Counts the blocks of a lease by their verdicts, missing ones as UNREAD, and ends it.

    What it found corrupt is looked at as far as there is time: whoever reads the rest next finds out again.
    InvalidArgument for more verdicts than blocks.
    """
    if len(verdicts) > len(holding.blocks):
        raise InvalidArgument(f"{len(verdicts)} verdicts for a lease of {len(holding.blocks)} blocks")
    corrupt = (block for block, verdict in zip(holding.blocks, verdicts, strict=False) if verdict is Verdict.CORRUPT)
    for block in corrupt:
        if not deadline.remaining():
            break
        _examine(tiered, holding, block, deadline)
    with tiered.index.changed:
        given = [*verdicts, *[Verdict.UNREAD] * (len(holding.blocks) - len(verdicts))]
        judged = list(zip(holding.blocks, given, strict=True))
        used = [block.key for block, verdict in judged if verdict is Verdict.USED]
        tiered.promotion.used(holding.namespace, used)
        holding.settle([(block, _OUTCOMES[verdict]) for block, verdict in judged])
        tiered.leases.end(holding)


def _examine(tiered: TieredStore, holding: Holding, block: Held, deadline: Deadline) -> None:
    """A reader found this block corrupt: drops the copy it read, unless it broke on the way or is gone since."""
    name = Name(holding.namespace, block.key)
    counters = tiered.counters(holding.namespace)
    largest = tiered.memory.largest()
    good = copy_is_good(tiered.lower, block.entry, block.tier, name, holding.fingerprint, deadline, largest)
    if good is not False:
        counters.add("corruptions", tier="transit", reason="checksum")
        return
    counters.add("corruptions", tier=block.tier, reason="checksum")
    if block.entry is not None:
        with tiered.index.changed:
            block.entry.withdrawn = True
            tiered.forget(block.entry, "corrupt")
    else:
        for tier in tiered.lower:
            if tier.name == block.tier:
                discard(tiered, tier, name, holding.fingerprint, deadline)
