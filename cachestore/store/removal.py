"""Blocks that somebody wants gone: from every tier, or from one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, Unavailable
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.store.copying import await_copies

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def delete(tiered: TieredStore, namespace: bytes, chain: Chain, deadline: Deadline) -> int:
    """Removes these blocks from every tier; how many there were."""
    with tiered.index.changed:
        tiered.removing(namespace)
        found = [tiered.index.get(Name(namespace, key)) for key in chain.keys]
        entries = [entry for entry in found if entry is not None and entry.ready]
        for entry in entries:
            _withdraw(tiered, entry, "deleted")
    removed = {entry.name.key for entry in entries}
    await_copies(tiered, entries, deadline)
    for tier in tiered.lower:
        gone = tier.delete_many(namespace, chain.keys, deadline)
        tiered.events.changed(tier, namespace, chain.keys, there=False)
        if gone is None:
            raise _unreached(tier.name)
        if tier.ledger is None:
            tiered.counters(namespace).add("tier_removed", sum(gone), tier=tier.name, why="deleted")
        removed.update(key for key, there in zip(chain.keys, gone, strict=True) if there)
    with tiered.index.changed:
        _came_back(tiered, namespace, [tiered.index.get(Name(namespace, key)) for key in chain.keys], "deleted")
    return len(removed)


def clear(tiered: TieredStore, namespace: bytes, tier: str, deadline: Deadline) -> int:
    """Removes all blocks of a namespace from the tier of this name, or from all; how many there were."""
    names = [tiered.memory.name, *(lower.name for lower in tiered.lower)]
    if tier and tier not in names:
        raise InvalidArgument(f"tier {tier!r} is not one of this store's: {', '.join(names)}")
    removed: set[bytes] = set()
    with tiered.index.changed:
        tiered.removing(namespace)
        entries = tiered.index.entries(namespace)
        for entry in entries:
            if not tier:
                _withdraw(tiered, entry, "cleared")
            elif tier == tiered.memory.name:
                tiered.forget(entry, "cleared")
            else:
                entry.cold.discard(tier)
                entry.withdrawn = True
                # what is to be durable again is written again, and counted
                entry.durable = False
                continue
            removed.add(entry.name.key)
    await_copies(tiered, [entry for entry in entries if entry.withdrawn], deadline)
    for lower in tiered.lower:
        if tier in ("", lower.name):
            gone = lower.clear(namespace, deadline)
            tiered.events.cleared(lower, namespace)
            if gone is None:
                raise _unreached(lower.name)
            if lower.ledger is None:
                tiered.counters(namespace).add("tier_removed", len(gone), tier=lower.name, why="cleared")
            removed |= gone
    with tiered.index.changed:
        now = [entry for entry in tiered.index.everything() if entry.name.namespace == namespace]
        if not tier:
            _came_back(tiered, namespace, now, "cleared")
        elif tier != tiered.memory.name:
            for entry in now:
                _forget_copies(entry, {tier})
    return len(removed)


def _came_back(tiered: TieredStore, namespace: bytes, entries: Sequence[Entry | None], why: str) -> None:
    """Removes what a reader brought up just before it was removed below, and stops what is on its way.

    Under the lock.
    """
    tiered.removing(namespace)
    for entry in entries:
        if entry is not None and entry.ready:
            _withdraw(tiered, entry, why)
        elif entry is not None:
            _forget_copies(entry, set(entry.cold))


def _forget_copies(entry: Entry, tiers: set[str]) -> None:
    """What was copied between the two looks may be gone as well; nor is it durable, if a put is just making it so."""
    entry.cold -= tiers
    entry.durable = False
    entry.withdrawn |= not entry.ready


def _withdraw(tiered: TieredStore, entry: Entry, why: str) -> None:
    entry.withdrawn = True
    tiered.forget(entry, why)


def _unreached(tier: str) -> Unavailable:
    return Unavailable(f"tier {tier} could not be asked in time and may still have blocks; repeat the call")
