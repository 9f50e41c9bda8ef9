"""Where the blocks of a chain are, and leases on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, takewhile
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.hashing import Chain
from cachestore.index import Name
from cachestore.store.base import Run
from cachestore.store.elsewhere import nodes
from cachestore.store.leases import Held, Holding
from cachestore.store.owned_page import Show
from cachestore.store.owned_pages import TIER
from cachestore.store.runs import runs_at
from cachestore.tiers.base import ColdTier, Protecting

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

LOOK_SECONDS = 0.05
"""How often it is looked whether whoever waits for blocks is still there."""

ATTEMPTS = 3
"""How often a chain is located again because blocks of it moved meanwhile."""


def locate(
    tiered: TieredStore, namespace: bytes, chain: Chain, deadline: Deadline, tiers: Sequence[ColdTier]
) -> tuple[Run, ...]:
    """The leading blocks that can be read, in memory and `tiers`, and where; nothing is protected yet."""
    index, memory, node = tiered.index, tiered.memory.name, tiered.settings.node
    with index.changed:
        ready = index.ready(namespace, chain.fingerprint)
        # a thousand keys in a loop that the interpreter does not see
        count = sum(1 for _ in takewhile(ready.__contains__, chain.keys))
        if count == len(chain):
            return (Run(count, memory, node),) if count else ()
        asked = list(chain.keys)
        missing: list[bytes] = []
        for position, key in enumerate(asked[count:], count):
            if key in ready:
                continue
            if index.get(Name(namespace, key)) is not None:
                # being written, or under another spec: whatever lies behind it is out of reach
                del asked[position:]
                break
            missing.append(key)
    found: dict[bytes, tuple[str, str]] = {}
    idle = 0
    # each is asked for what leads, so one is asked again once others have gone on where it stopped
    for tier in cycle(tiers):
        left = [key for key in missing if key not in found]
        if not left or idle == len(tiers):
            break
        readable = tiered.unreadable.leading(tier.name, namespace, left)
        holders = nodes(tier, namespace, readable, deadline, node)
        found.update((key, (tier.name, holder)) for key, holder in zip(readable, holders, strict=False))
        idle = 1 if holders else idle + 1
    gap = next((key for key in missing if key not in found), None)
    leading = asked if gap is None else asked[: asked.index(gap)]
    absent = set(missing)
    return runs_at([found[key] if key in absent else (memory, node) for key in leading])


def grant(
    tiered: TieredStore,
    namespace: bytes,
    chain: Chain,
    ttl: float,
    deadline: Deadline,
    tiers: Sequence[ColdTier],
    wait: float = 0.0,
    over: Callable[[], bool] | None = None,
    show: Show | None = None,
    name: bytes = b"",
) -> Holding:
    """A lease on the leading blocks that can be read, after waiting up to `wait` seconds for those being written.

    They are looked for in memory and in `tiers`.
    The wait ends soon after `over` says so. Where `show` has pages for its reader, these come first. The lease is
    `name`, if its caller has drawn one.
    """
    _await(tiered, namespace, chain, Deadline(min(deadline.at, time.monotonic() + wait)), over)
    pages = show(chain) if show is not None else ()
    behind = Chain(chain.fingerprint, chain.keys[len(pages) :]) if pages else chain
    attempt = 0
    while True:
        attempt += 1
        located = locate(tiered, namespace, behind, deadline, tiers)
        with tiered.index.changed:
            ready = tiered.index.ready(namespace, chain.fingerprint)
            paged = [Held(page.key, ready.get(page.key), TIER, page=page) for page in pages]
            blocks = _held(tiered, namespace, behind, located)
            last = attempt == ATTEMPTS
            # blocks may have left their tier between the two locks; where to, another look tells
            if len(blocks) == sum(run.blocks for run in located) or last:
                holding = tiered.leases.start(
                    namespace, chain.fingerprint, [*paged, *blocks], ttl, tiered.counters(namespace), name
                )
                holding.tiers = tiers
                if _protected(tiered, holding) or last:
                    return holding
                tiered.leases.end(holding)


def _held(tiered: TieredStore, namespace: bytes, chain: Chain, located: Sequence[Run]) -> list[Held]:
    ready, memory = tiered.index.ready(namespace, chain.fingerprint), tiered.memory.name
    blocks: list[Held] = []
    for run in located:
        for key in chain.keys[len(blocks) : len(blocks) + run.blocks]:
            entry = ready.get(key)
            if entry is not None:
                # the entry's own bytes of the key, not the request's: a lease may outlive that by long
                blocks.append(Held(entry.name.key, entry, memory))
            elif run.tier != memory:
                blocks.append(Held(key, None, run.tier, node=run.node))
            else:
                return blocks
    return blocks


def _protected(tiered: TieredStore, holding: Holding) -> bool:
    """Has the lower tiers spare what is leased there, as far as they can; False if one of them has let some go.

    Under the lock: none of them asks its medium for that.
    """
    lower = [held for held in holding.blocks if held.entry is None]
    whole = True
    for tier in tiered.lower:
        # a page may be gone when it is to be read: then any copy has to do, and the first tier that has one is read
        blocks = [
            held for held in lower if held.protector is None and (held.page is not None or held.tier == tier.name)
        ]
        if blocks and isinstance(tier, Protecting):
            for held, there in zip(blocks, tier.protect(holding.namespace, [held.key for held in blocks]), strict=True):
                held.protector = tier if there else None
                # one that only asks its medium cannot tell
                whole &= there or tier.ledger is None or held.page is not None
    return whole


def _await(
    tiered: TieredStore, namespace: bytes, chain: Chain, until: Deadline, over: Callable[[], bool] | None
) -> None:
    """Each block is waited for while it is being written, one after the other; no look goes back to one before."""
    index = tiered.index
    if not until.remaining():
        return
    with index.changed:
        for key in chain.keys:
            # the rest is looked at when this one is done: every waiter wakes at every change, under everybody's lock
            while index.writing(namespace, key):
                if not until.remaining() or (over is not None and over()):
                    return
                # what makes it true cannot wait for the lock, and so wakes nobody
                index.changed.wait(min(until.remaining(), LOOK_SECONDS) if over is not None else until.remaining())
