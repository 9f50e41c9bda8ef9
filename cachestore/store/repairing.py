"""Copies in lower tiers that went bad: removed, or, where they were kept for good, made again of a good one first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import Overloaded
from cachestore.index import Name
from cachestore.seal import OTHER_SPEC, CorruptBlock, Header
from cachestore.store.copying import MOVE_SECONDS
from cachestore.store.durability import durable_ones, stays, whole
from cachestore.store.inspection import decodes, for_others, opened
from cachestore.store.promises import charged
from cachestore.tiers.base import ColdTier

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def discard(tiered: TieredStore, tier: ColdTier, name: Name, fingerprint: bytes, deadline: Deadline) -> None:
    """Removes a copy in a lower tier that a reader found corrupt, unless a good one has taken its place.

    A durable one stays until another is made of a good copy, or it counts as lost: a process that is killed before
    leaves it to be found again. One that another store may be able to read stays, and is noted.
    """
    spoiled, handed_on = Spoiled(tier, name), False
    with tiered.index.changed:
        tiered.repairing.add([spoiled])
    try:
        if not _spoiled(tiered, tier, name, fingerprint, deadline):
            return
        if _remove(tiered, tier, name, "corrupt", deadline) == [False] and tier.durable:
            handed_on = tiered.mover.submit(partial(repair, tiered, [spoiled])) is not None
    finally:
        if not handed_on:
            with tiered.index.changed:
                tiered.repairing.end([spoiled])
    with tiered.index.changed:
        entry = tiered.index.get(name)
        if entry is not None:
            entry.cold.discard(tier.name)


@dataclass(eq=False)
class Spoiled:
    """A durable copy that went bad in `tier`, and stays there for now unless it is `gone`."""

    tier: ColdTier
    name: Name
    gone: bool = False
    removed: bool = False
    """Somebody wants this very block gone since: it is no loss, and must not come back. Set under the index's lock."""


@dataclass(eq=False)
class Repairs:
    """Durable copies that went bad, until each is made again or counted as lost. Callers hold the index's lock."""

    _pending: dict[bytes, dict[bytes, set[Spoiled]]] = field(default_factory=dict)
    """By namespace and key: what is removed must not be looked for among all there are, under everybody's lock."""

    def add(self, found: Iterable[Spoiled]) -> None:
        """These are to be seen to."""
        for spoiled in found:
            namespace, key = spoiled.name
            self._pending.setdefault(namespace, {}).setdefault(key, set()).add(spoiled)

    def end(self, done: Iterable[Spoiled]) -> None:
        """These were."""
        for spoiled in done:
            namespace, key = spoiled.name
            keys = self._pending.get(namespace, {})
            keys.get(key, set()).discard(spoiled)
            if key in keys and not keys[key]:
                del keys[key]
            if not keys:
                self._pending.pop(namespace, None)

    def removed(self, namespace: bytes, keys: Collection[bytes] | None, tier: str = "") -> None:
        """Copies of these blocks (None: of all), in this tier or any, are not to be made again."""
        pending = self._pending.get(namespace, {})
        for key in pending if keys is None else pending.keys() & keys:
            for spoiled in pending[key]:
                spoiled.removed |= tier in ("", spoiled.tier.name)


def repair(tiered: TieredStore, found: Sequence[Spoiled]) -> None:
    """Makes another copy of any good one of each of these blocks, or counts it as lost."""
    try:
        for spoiled in found:
            _repair(tiered, spoiled, Deadline.after(MOVE_SECONDS))
    finally:
        with tiered.index.changed:
            tiered.repairing.end(found)


def _repair(tiered: TieredStore, spoiled: Spoiled, deadline: Deadline) -> None:
    tier, name, gone = spoiled.tier, spoiled.name, spoiled.gone
    # whoever found it before may have seen to it
    if not gone and not _spoiled(tiered, tier, name, None, deadline):
        return
    data = whole(tiered, name, None, deadline, but=tier)
    if spoiled.removed:
        return
    kept = _keep_again(tiered, spoiled, data, deadline) if data is not None else None
    if spoiled.removed:
        return
    if kept is None:
        # before it is removed: one that is found a second time is better than one that nobody counts
        tiered.counters(name.namespace).add("data_loss", tier=tier.name)
    if not gone and kept is not tier and not _remove(tiered, tier, name, "replaced" if kept else "lost", deadline):
        tiered.unreadable.note(tier.name, *name)


def _keep_again(tiered: TieredStore, spoiled: Spoiled, data: Buffer, deadline: Deadline) -> ColdTier | None:
    """The tier that has this block for good now; None if no tier takes it, or it would be beyond the quota."""
    name, as_of = spoiled.name, tiered.removals(spoiled.name.namespace)
    try:
        with charged(tiered, name.namespace, [(name.key, data)], deadline):
            tier = next((tier for tier in durable_ones(tiered) if _kept_by(tier, name, data, deadline)), None)
    except Overloaded:
        return None
    if tier is None:
        return None
    if tier.ledger is None:
        tiered.counters(name.namespace).add("tier_added", tier=tier.name)
    with tiered.index.changed:
        entry = tiered.index.get(name)
        if entry is not None and entry.ready and stays(tiered, tier, name, as_of):
            entry.cold.add(tier.name)
    tiered.events.changed(tier, name.namespace, [name.key], there=True)
    if spoiled.removed:
        _remove(tiered, tier, name, "deleted", deadline)
    return tier


def _kept_by(tier: ColdTier, name: Name, data: Buffer, deadline: Deadline) -> bool:
    return tier.put_many(name.namespace, [(name.key, data)], None, deadline, durable=True) == [True]


def _remove(tiered: TieredStore, tier: ColdTier, name: Name, why: str, deadline: Deadline) -> list[bool] | None:
    removed = tier.delete_many(name.namespace, [name.key], deadline, why=why)
    tiered.events.changed(tier, name.namespace, [name.key], there=False)
    if removed and tier.ledger is None:
        tiered.counters(name.namespace).add("tier_removed", sum(removed), tier=tier.name, why=why)
    return removed


def _spoiled(tiered: TieredStore, tier: ColdTier, name: Name, fingerprint: bytes | None, deadline: Deadline) -> bool:
    """Whether the tier has a copy that nobody can read; one that others may be able to is noted."""
    (data,) = tier.get_many(name.namespace, [name.key], deadline)
    if data is None:
        return False
    try:
        if isinstance(data, CorruptBlock):
            raise data
        header = opened(data, name, fingerprint or Header.parse(data).fingerprint, tiered.memory.largest())
    except CorruptBlock as corrupt:
        # who asks under another fingerprint must neither remove it nor hide it from those who ask under its own
        if corrupt.reason == OTHER_SPEC:
            return False
        if for_others(corrupt, data):
            tiered.unreadable.note(tier.name, *name)
            return False
        return True
    return not decodes(header, data[header.size :])
