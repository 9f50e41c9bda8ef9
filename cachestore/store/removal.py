"""Blocks that somebody wants gone, from every tier or from one; and those of a put that came to nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, Unavailable
from cachestore.hashing import Chain
from cachestore.index import Entry, Name
from cachestore.store.copying import MOVE_SECONDS, await_copies
from cachestore.store.owned_pages import TIER
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

INLINE_SECONDS = 0.2
"""The deadline of taking copies back where no background is left to do it: a put ends by its own deadline."""


def delete(tiered: TieredStore, namespace: bytes, chain: Chain, deadline: Deadline, tiers: Sequence[ColdTier]) -> int:
    """Removes these blocks from memory and from `tiers`; how many there were."""
    # before it is said: an owner that was not told of it finds that out by what is said
    removed = tiered.pages.remove(namespace, chain.keys, "deleted")
    with tiered.index.changed:
        tiered.removing(namespace)
        found = [tiered.index.get(Name(namespace, key)) for key in chain.keys]
        entries = [entry for entry in found if entry is not None and entry.ready]
        for entry in entries:
            _withdraw(tiered, entry, "deleted")
        keys = set(chain.keys)
        left = _withdraw_copies(tiered, lambda name: name.namespace == namespace and name.key in keys)
        tiered.repairing.removed(namespace, keys)
    removed |= {entry.name.key for entry in entries}
    await_copies(tiered, [*entries, *left], deadline)
    unreached: set[str] = set()
    for tier in tiers:
        gone = _delete(tiered, tier, namespace, chain.keys, deadline, "deleted")
        if gone is None:
            unreached.add(tier.name)
        else:
            removed.update(key for key, there in zip(chain.keys, gone, strict=True) if there)

    def look() -> list[Entry]:
        now = [tiered.index.get(Name(namespace, key)) for key in chain.keys]
        tiered.repairing.removed(namespace, keys)
        return _came_back(tiered, namespace, [entry for entry in now if entry is not None], "deleted")

    unreached |= _follow(tiered, tiered.lower, namespace, look, deadline, "deleted")
    _check_reached(tiers, unreached)
    return len(removed)


def clear(tiered: TieredStore, namespace: bytes, tier: str, deadline: Deadline, tiers: Sequence[ColdTier]) -> int:
    """Removes all blocks of a namespace from the tier of this name, memory or one of `tiers`, or from all; how many."""
    names = [tiered.memory.name, *(lower.name for lower in tiers)]
    if tier == TIER and tier not in names:
        return _clear_pages(tiered, namespace)
    if tier and tier not in names:
        raise InvalidArgument(f"tier {tier!r} is not one of this store's: {', '.join(names)}")
    removed = tiered.pages.remove(namespace, None, "cleared") if tier in ("", TIER) else set[bytes]()
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
        left = _withdraw_copies(tiered, lambda name: name.namespace == namespace) if tier != tiered.memory.name else []
        tiered.repairing.removed(namespace, None, tier)
    await_copies(tiered, [*(entry for entry in entries if entry.withdrawn), *left], deadline)
    cleared = [lower for lower in tiers if tier in ("", lower.name)]
    unreached: set[str] = set()
    for lower in cleared:
        gone = lower.clear(namespace, deadline)
        tiered.events.cleared(lower, namespace)
        if gone is None:
            unreached.add(lower.name)
            continue
        if lower.ledger is None:
            tiered.counters(namespace).add("tier_removed", len(gone), tier=lower.name, why="cleared")
        removed |= gone

    def look() -> list[Entry]:
        now = [entry for entry in tiered.index.everything() if entry.name.namespace == namespace]
        tiered.repairing.removed(namespace, None, tier)
        if not tier:
            return _came_back(tiered, namespace, now, "cleared")
        return _forget_copies(now, {lower.name for lower in cleared}) if cleared else []

    unreached |= _follow(tiered, cleared, namespace, look, deadline, "cleared")
    _check_reached(tiers, unreached)
    return len(removed)


def _clear_pages(tiered: TieredStore, namespace: bytes) -> int:
    removed = tiered.pages.remove(namespace, None, "cleared")
    with tiered.index.changed:
        tiered.removing(namespace)
    return len(removed)


def take_back(tiered: TieredStore, entries: Sequence[Entry]) -> None:
    """Takes blocks that will not be published out of the index, each once no tier has a copy of it any more.

    What has no copy goes at once. For the others nobody waits; until then their keys are those of blocks being written.
    """
    with tiered.index.changed:
        copied = []
        for entry in entries:
            entry.withdrawn = True
            if entry.cold or entry.copies:
                copied.append(entry)
            else:
                _put_out(tiered, entry)
    if copied and tiered.mover.submit(partial(_take_back, tiered, copied, MOVE_SECONDS)) is None:
        _take_back(tiered, copied, INLINE_SECONDS)


def _put_out(tiered: TieredStore, entry: Entry) -> None:
    """Takes a block out of the index that is not to be published, or was so for a durable tier alone."""
    if entry.ready:
        tiered.forget(entry, "withdrawn")
    else:
        tiered.index.remove(entry)


def _take_back(tiered: TieredStore, entries: Sequence[Entry], seconds: float) -> None:
    deadline = Deadline.after(seconds)
    try:
        await_copies(tiered, entries, deadline)
        for tier in tiered.cold:
            by_namespace: dict[bytes, list[bytes]] = {}
            with tiered.index.changed:
                for entry in entries:
                    if tier.name in entry.cold:
                        by_namespace.setdefault(entry.name.namespace, []).append(entry.name.key)
            for namespace, keys in by_namespace.items():
                if _delete(tiered, tier, namespace, keys, deadline, "withdrawn") is None:
                    tiered.counters(namespace).add("left_behind", len(keys), tier=tier.name)
    finally:
        with tiered.index.changed:
            for entry in entries:
                _put_out(tiered, entry)


def _delete(
    tiered: TieredStore, tier: ColdTier, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, why: str
) -> list[bool] | None:
    """Removes blocks from one tier, says so and counts them; None if some may still be there."""
    gone = tier.delete_many(namespace, keys, deadline, why=why)
    tiered.events.changed(tier, namespace, keys, there=False)
    if gone is not None and tier.ledger is None:
        tiered.counters(namespace).add("tier_removed", sum(gone), tier=tier.name, why=why)
    return gone


def _came_back(tiered: TieredStore, namespace: bytes, entries: Sequence[Entry], why: str) -> list[Entry]:
    """Removes what a reader brought up just before it was removed below, and stops what is on its way.

    Under the lock. Returns the unpublished blocks of which tiers may have got copies behind the removal there.
    """
    tiered.removing(namespace)
    for entry in entries:
        if entry.ready:
            _withdraw(tiered, entry, why)
    return _forget_copies([entry for entry in entries if not entry.gone], {tier.name for tier in tiered.lower})


def _forget_copies(entries: Sequence[Entry], tiers: Collection[str]) -> list[Entry]:
    """What was copied between the two looks may be gone as well; nor is it durable, if a put is just making it so.

    Returns the unpublished ones that were, or are being, copied: only for them these tiers have to be asked again.
    """
    copied = [entry for entry in entries if not entry.ready and (entry.copies or not entry.cold.isdisjoint(tiers))]
    for entry in entries:
        entry.cold.difference_update(tiers)
        entry.durable = False
        entry.withdrawn |= not entry.ready
    return copied


def _follow(
    tiered: TieredStore,
    tiers: Sequence[ColdTier],
    namespace: bytes,
    look: Callable[[], list[Entry]],
    deadline: Deadline,
    why: str,
) -> set[str]:
    """Removes what puts copied behind the removal, once that has arrived; the tiers that could not be asked.

    `look` is called under the lock, and returns the blocks of which there are such copies; at last there are none.
    """
    unreached: set[str] = set()
    while True:
        with tiered.index.changed:
            copied = look()
        if not copied or unreached:
            return unreached
        await_copies(tiered, copied, deadline)
        keys = [entry.name.key for entry in copied]
        gone = {tier.name: _delete(tiered, tier, namespace, keys, deadline, why) for tier in tiers}
        late = any(entry.copies for entry in copied)
        unreached = {name for name, removed in gone.items() if late or removed is None}


def _withdraw(tiered: TieredStore, entry: Entry, why: str) -> None:
    entry.withdrawn = True
    tiered.forget(entry, why)


def _withdraw_copies(tiered: TieredStore, chosen: Callable[[Name], bool]) -> list[Entry]:
    """Blocks that have left memory while they were copied: their copies must go, too. Under the lock."""
    left = [entry for entry in tiered.copying if entry.gone and chosen(entry.name)]
    for entry in left:
        entry.withdrawn = True
    return left


def _check_reached(tiers: Sequence[ColdTier], unreached: Collection[str]) -> None:
    if unreached:
        names = ", ".join(tier.name for tier in tiers if tier.name in unreached)
        raise Unavailable(f"tier {names} could not be asked in time and may still have blocks; repeat the call")
