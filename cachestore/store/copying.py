"""Copies of blocks in memory to the cold tiers: with every put, a while after it, or when a block must leave."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry, Name
from cachestore.store.unreadable import make_way
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

MOVE_SECONDS = 10.0
"""The deadline of a move that nobody waits for."""


@dataclass(eq=False)
class WriteBack:
    """The names of blocks whose copies are due, oldest first. Callers hold the index's lock."""

    delay: float
    _due: deque[tuple[float, Name]] = field(default_factory=deque)

    def add(self, entries: Sequence[Entry]) -> None:
        """Blocks that were just published."""
        at = time.monotonic() + self.delay
        self._due.extend((at, entry.name) for entry in entries)

    def due(self, now: float) -> list[Name]:
        """Takes out the blocks whose time has come; some may have left since."""
        taken = []
        while self._due and self._due[0][0] <= now:
            taken.append(self._due.popleft()[1])
        return taken


def write(tiered: TieredStore, entries: Sequence[Entry]) -> None:
    """Copies published blocks down in the background, now or later, as `store.write` says."""
    if not tiered.cold or not entries:
        return
    if tiered.settings.write == "through":
        _submit(tiered, entries)
    elif tiered.settings.write == "back":
        with tiered.index.changed:
            tiered.write_back.add(entries)


def write_due(tiered: TieredStore, now: float) -> None:
    """Copies the blocks down whose delay is over, all of them if `now` is infinite."""
    with tiered.index.changed:
        found = [tiered.index.get(name) for name in tiered.write_back.due(now)]
        entries = [entry for entry in found if entry is not None and entry.ready]
    if entries:
        _submit(tiered, entries)


def _submit(tiered: TieredStore, entries: Sequence[Entry]) -> None:
    if tiered.mover.submit(lambda: _write(tiered, entries)) is None:
        tiered.counters(entries[0].name.namespace).add("write_skipped", len(entries))


def _write(tiered: TieredStore, entries: Sequence[Entry]) -> None:
    with tiered.index.changed:
        staying = [entry for entry in entries if not entry.gone]
        for entry in staying:
            tiered.index.use(entry)
        tiered.moving += 1
    try:
        copy_down(tiered, staying, Deadline.after(MOVE_SECONDS), everywhere=True)
    finally:
        with tiered.index.changed:
            for entry in staying:
                tiered.index.leave(entry)
            tiered.moving -= 1
            tiered.index.changed.notify_all()


def copy_down(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline, *, everywhere: bool) -> None:
    """Copies blocks, which the caller keeps in use, to every cold tier, or to the first that takes them."""
    left = copyable(tiered, entries)
    for tier in tiered.cold:
        copy_to(tiered, tier, [entry for entry in left if tier.name not in entry.cold], deadline)
        left = [entry for entry in left if not entry.withdrawn and (everywhere or tier.name not in entry.cold)]


def copyable(tiered: TieredStore, entries: Sequence[Entry]) -> list[Entry]:
    """Those of these blocks that are still wanted; what withdraws them from now on is known when a copy arrives."""
    with tiered.index.changed:
        left = [entry for entry in entries if not entry.gone]
        for entry in left:
            entry.withdrawn = False
    return left


def copy_to(
    tiered: TieredStore, tier: ColdTier, entries: Sequence[Entry], deadline: Deadline, *, durable: bool = False
) -> None:
    """Copies blocks, which the caller keeps in use, to one tier; those that arrived name it in `cold`."""
    with under_way(tiered, entries) as wanted:
        groups: dict[tuple[bytes, float], list[Entry]] = {}
        for entry in wanted:
            groups.setdefault((entry.name.namespace, entry.ends), []).append(entry)
        for (namespace, ends), group in groups.items():
            # a copy lives no longer than the block
            ttl = None if ends == math.inf else max(1e-3, ends - time.monotonic())
            blocks = [(entry.name.key, entry.slot.bytes) for entry in group]
            make_way(tiered, tier, namespace, [key for key, _ in blocks], deadline)
            kept = tier.put_many(namespace, blocks, ttl, deadline, durable=durable)
            there = [entry for entry, ok in zip(group, kept, strict=True) if ok]
            _copied(tiered, tier, namespace, there, deadline)


@contextmanager
def under_way(tiered: TieredStore, entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Those of these blocks that are wanted still; who removes them waits until the caller is done copying them."""
    with tiered.index.changed:
        wanted = [entry for entry in entries if not entry.withdrawn]
        for entry in wanted:
            entry.copies += 1
            tiered.copying.add(entry)
    try:
        yield wanted
    finally:
        with tiered.index.changed:
            for entry in wanted:
                entry.copies -= 1
                if not entry.copies:
                    tiered.copying.discard(entry)
            tiered.index.changed.notify_all()


def await_copies(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline) -> None:
    """Waits until the copies of withdrawn blocks have arrived and are taken back, as far as there is time."""
    with tiered.index.changed:
        while deadline.remaining() and any(entry.copies for entry in entries):
            tiered.index.changed.wait(deadline.remaining())


def still_there(tier: ColdTier, name: Name) -> bool:
    """Whether a copy that the tier had just now is not known to have left. Under the lock.

    A block that others drive out meanwhile, of the same batch even, is told of before anybody remembers the copy.
    """
    return tier.ledger is None or tier.present(name.namespace, [name.key], Deadline.after(MOVE_SECONDS)) == [True]


def _copied(
    tiered: TieredStore,
    tier: ColdTier,
    namespace: bytes,
    entries: Sequence[Entry],
    deadline: Deadline,
) -> None:
    with tiered.index.changed:
        stale = [entry for entry in entries if entry.withdrawn]
        for entry in entries:
            if not entry.withdrawn and still_there(tier, entry.name):
                entry.cold.add(tier.name)
        there = [entry.name.key for entry in entries if not entry.withdrawn]
        tiered.events.changed(tier, namespace, there, there=True)
    if tier.ledger is None:
        tiered.counters(namespace).add("tier_added", len(entries) - len(stale), tier=tier.name)
    if stale:
        keys = [entry.name.key for entry in stale]
        if tier.delete_many(namespace, keys, deadline, why="withdrawn") is None:
            # no time is left for it: whoever withdrew them and waits for their copies still has some
            with tiered.index.changed:
                for entry in stale:
                    entry.cold.add(tier.name)
                unawaited = sum(entry.gone and not entry.ready for entry in stale)
                tiered.counters(namespace).add("left_behind", unawaited, tier=tier.name)
            if tier.ledger is None:
                tiered.counters(namespace).add("tier_added", len(stale), tier=tier.name)
        tiered.events.changed(tier, namespace, keys, there=False)
