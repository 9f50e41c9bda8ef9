"""Room in memory: blocks leave for others, as far as they may.

What has no copy in a cold tier gets one first; what has one in a medium that drops blocks unseen is asked for, so that
nothing is lost because Redis came back empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry, Name
from cachestore.store.copying import copy_down
from cachestore.tiers.arena import Move
from cachestore.tiers.ledger import CAPACITY, QUOTA
from cachestore.tiers.slab import Slot

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

COMPACTIONS = 2
"""How often blocks are moved together for one block before others leave for it."""


def take(
    tiered: TieredStore,
    namespace: bytes,
    nbytes: int,
    deadline: Deadline,
    owner: bytes = b"",
    reason: str = CAPACITY,
) -> Slot | None:
    """Memory for a block, others leaving for it as far as they may; None if too little may leave in time.

    `reason` is what they are counted to have left for, where it is not the namespace's quota.
    """
    index = tiered.index
    # it would be refused once all that the namespace holds had left for it
    if nbytes > index.quota(namespace):
        return None
    rounds = 0
    while True:
        with index.changed:
            if index.over_quota(namespace, nbytes) <= 0:
                slot = tiered.memory.take(namespace, nbytes, owner)
                if slot is not None:
                    return slot
            if not deadline.remaining():
                return None
            # what was moved together others may have taken first
            moves = _moves(tiered, namespace, nbytes, owner) if rounds < COMPACTIONS else []
            rounds = rounds + 1 if moves else 0
            needed = QUOTA if index.over_quota(namespace, nbytes) > 0 else reason
            leaving = [] if moves else index.evict(nbytes, namespace)
            if not leaving and not moves and not tiered.moving:
                return None
            if not leaving and not moves:
                # what others are just copying may leave then, and may be enough
                index.changed.wait(deadline.remaining())
                continue
            tiered.moving += 1
        try:
            if moves:
                _compact(tiered, moves)
            else:
                _evict(tiered, leaving, deadline, needed)
        finally:
            with index.changed:
                tiered.moving -= 1
                index.changed.notify_all()


def take_free(tiered: TieredStore, namespace: bytes, nbytes: int, most: int, owner: bytes = b"") -> list[Slot]:
    """Memory for up to so many blocks of one size, as far as there is some that is nobody's. Under the lock."""
    left = -tiered.index.over_quota(namespace)
    most = min(most, max(0, int(left // nbytes))) if left < math.inf else most
    return tiered.memory.take_many(namespace, nbytes, most, owner) if most else []


def lacking(tiered: TieredStore, namespace: bytes, nbytes: int) -> str:
    """What a block needed for which there was no memory: room under its namespace's quota, or room at all."""
    with tiered.index.changed:
        return QUOTA if tiered.index.over_quota(namespace, nbytes) > 0 else CAPACITY


def _moves(tiered: TieredStore, namespace: bytes, nbytes: int, owner: bytes) -> list[tuple[Entry, Move]]:
    """What to move together, where enough memory is free but in too many pieces. The entries are in use then."""
    index, memory = tiered.index, tiered.memory
    if memory.capacity - memory.usage().used < nbytes or index.over_quota(namespace, nbytes) > 0:
        return []

    def entry_of(slot: Slot) -> Entry | None:
        return index.get(Name(slot.slab.namespace, slot.key)) if slot.key is not None else None

    def movable(slot: Slot) -> bool:
        entry = entry_of(slot)
        return entry is not None and entry.ready and not entry.users and entry.slot is slot

    moves = []
    for move in memory.compaction(namespace, nbytes, movable, owner) or []:
        entry = entry_of(move.old)
        assert entry is not None
        index.use(entry)
        moves.append((entry, move))
    return moves


def _compact(tiered: TieredStore, moves: Sequence[tuple[Entry, Move]]) -> None:
    for entry, move in moves:
        move.copy()
        with tiered.index.changed:
            tiered.index.leave(entry)
            # somebody may have taken a lease on it meanwhile, or deleted it
            if entry.users or entry.gone:
                tiered.memory.give(move.new)
            else:
                tiered.index.moved(entry, move.new)
                tiered.counters(entry.name.namespace).add("moved", tier=tiered.memory.name)


def _evict(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline, reason: str) -> None:
    _ask_for_copies(tiered, entries, deadline)
    homeless = [entry for entry in entries if not entry.cold]
    try:
        copy_down(tiered, homeless, deadline, everywhere=False)
    finally:
        with tiered.index.changed:
            for entry in entries:
                tiered.index.leave(entry)
                if entry.gone:
                    continue
                # somebody may have taken a lease on it, or pinned it, while it was copied: then it stays
                if entry.users or entry.pinned:
                    tiered.index.stay(entry)
                else:
                    _evicted(tiered, entry, entry in homeless, reason)


def _ask_for_copies(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline) -> None:
    """Forgets the copies that a medium of its own will has dropped."""
    for tier in tiered.cold:
        if tier.ledger is not None:
            continue
        by_namespace: dict[bytes, list[Entry]] = {}
        for entry in entries:
            if tier.name in entry.cold:
                by_namespace.setdefault(entry.name.namespace, []).append(entry)
        for namespace, group in by_namespace.items():
            there = tier.present(namespace, [entry.name.key for entry in group], deadline)
            with tiered.index.changed:
                for entry, present in zip(group, there, strict=True):
                    if not present:
                        entry.cold.discard(tier.name)


def _evicted(tiered: TieredStore, entry: Entry, homeless: bool, reason: str) -> None:
    counters = tiered.counters(entry.name.namespace)
    if homeless and entry.cold:
        counters.add("demoted", tier=min(entry.cold), reason=reason)
    elif not entry.cold:
        counters.add("dropped", reason=reason)
    tiered.forget(entry, "evicted", reason)
