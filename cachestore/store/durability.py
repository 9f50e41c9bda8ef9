"""Blocks that must survive: acknowledged only by a tier that has them for good."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.errors import DurabilityUnmet
from cachestore.index import Entry, Name
from cachestore.seal import DURABLE, CorruptBlock, Header
from cachestore.store.copying import MOVE_SECONDS, copy_to, copyable, still_there
from cachestore.store.inspection import intact, opened
from cachestore.store.promises import charged
from cachestore.store.unreadable import make_way, seen
from cachestore.tiers.base import ColdTier, Found, Keeping

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def durable_ones(tiered: TieredStore) -> list[ColdTier]:
    """The tiers that keep blocks for good."""
    return [tier for tier in tiered.cold if tier.durable]


@runtime_checkable
class Counted(Protocol):
    """A tier that is so many nodes: it alone keeps the blocks of some namespaces for good, and none of others."""

    def keepers(self, namespace: bytes) -> int:
        """How many nodes have to keep a block of this namespace, this one included; 0 where other tiers do."""

    def lacking(self, namespace: bytes) -> str:
        """Why too few nodes can keep its blocks now, by what is known of them; empty if there are enough."""


def durable_tiers(tiered: TieredStore, namespace: bytes) -> list[ColdTier]:
    """The tiers that can acknowledge blocks of this namespace now; DurabilityUnmet if there is none."""
    keepers = {tier: tier.keepers(namespace) for tier in durable_ones(tiered) if isinstance(tier, Counted)}
    tiers: list[ColdTier] = [tier for tier, nodes in keepers.items() if nodes]
    tiers = tiers or [tier for tier in durable_ones(tiered) if tier not in keepers]
    if not tiers:
        raise DurabilityUnmet(
            "no configured tier survives a killed process, so DURABLE cannot be acknowledged; put with CACHE"
        )
    healthy = [tier for tier in tiers if tier.healthy]
    if not healthy:
        raise DurabilityUnmet(f"tier {tiers[0].name} cannot be used now, so DURABLE cannot be acknowledged; try again")
    return healthy


def lacking_nodes(tiered: TieredStore, namespace: bytes) -> str:
    """Why durable blocks of this namespace are not kept by as many nodes as are to; empty if it is not for that."""
    found = (tier.lacking(namespace) for tier in durable_ones(tiered) if isinstance(tier, Counted))
    return next(filter(None, found), "")


def secure(tiered: TieredStore, entries: Sequence[Entry], deadline: Deadline) -> None:
    """Copies blocks of a namespace, which the caller keeps, to a durable tier; what one acknowledged is durable."""
    left = copyable(tiered, entries)
    for tier in durable_tiers(tiered, entries[0].name.namespace):
        if left:
            copy_to(tiered, tier, left, deadline, durable=True)
        _end_left(tiered, tier, {entry.name.namespace for entry in left if tier.name not in entry.cold})
        with tiered.index.changed:
            for entry in left:
                # one that is to go may have a copy still, if there was no time to take that back
                entry.durable |= tier.name in entry.cold and not entry.withdrawn
        left = [entry for entry in left if not entry.durable]


def _end_left(tiered: TieredStore, tier: ColdTier, namespaces: Collection[bytes]) -> None:
    """Has what a durable put that failed may have left in the tier ended there, with time of its own."""
    if isinstance(tier, Keeping):
        for namespace in namespaces:
            tiered.mover.submit(partial(_recount, tier, namespace))


def _recount(tier: Keeping, namespace: bytes) -> None:
    tier.recount(namespace, Deadline.after(MOVE_SECONDS))


def upgrade(
    tiered: TieredStore,
    namespace: bytes,
    keys: Sequence[bytes],
    fingerprint: bytes,
    deadline: Deadline,
    ttl: float | None = None,
) -> dict[bytes, str]:
    """Makes blocks that are there durable, for `ttl` seconds at least; by key, the tier that acknowledged it.

    Overloaded if the namespace may not keep so much.
    """
    done: dict[bytes, ColdTier] = {}
    as_of = tiered.removals(namespace)
    least = 0 if ttl is None else round((time.time() + ttl) * 1000)
    for tier in durable_tiers(tiered, namespace):
        left = [key for key in keys if key not in done]
        done.update(dict.fromkeys(_kept(tiered, tier, namespace, left, fingerprint, least, deadline), tier))
        found = [
            (key, whole(tiered, Name(namespace, key), fingerprint, deadline, least)) for key in left if key not in done
        ]
        blocks = [(key, data) for key, data in found if data is not None]
        make_way(tiered, tier, namespace, [key for key, _ in blocks], deadline)
        with charged(tiered, namespace, blocks, deadline):
            kept = tier.put_many(namespace, blocks, None, deadline, durable=True)
        there = [key for (key, _), ok in zip(blocks, kept, strict=True) if ok]
        if tier.ledger is None:
            tiered.counters(namespace).add("tier_added", len(there), tier=tier.name)
        done.update(dict.fromkeys(there, tier))
        _end_left(tiered, tier, () if all(kept) else (namespace,))
        tiered.events.changed(tier, namespace, there, there=True)
    if tiered.removals(namespace) != as_of:
        # what was removed meanwhile is not to be promised
        as_of = tiered.removals(namespace)
        done = {key: tier for key, tier in done.items() if tier.present(namespace, [key], deadline) == [True]}
    with tiered.index.changed:
        for key, tier in done.items():
            name = Name(namespace, key)
            entry = tiered.index.get(name)
            if entry is not None and entry.ready and stays(tiered, tier, name, as_of):
                entry.durable = True
                entry.cold.add(tier.name)
                tiered.prolong(entry, ttl)
    return {key: tier.name for key, tier in done.items()}


def _kept(
    tiered: TieredStore,
    tier: ColdTier,
    namespace: bytes,
    keys: Sequence[bytes],
    fingerprint: bytes,
    least: int,
    deadline: Deadline,
) -> list[bytes]:
    """Those of these blocks that the tier keeps whole and long enough: they need not go there again.

    There may be no room for that either. Only of a tier that knows what it has: another is asked by writing to it.
    """
    if tier.ledger is None or not isinstance(tier, Keeping):
        return []
    kept = tier.kept(namespace, keys, least / 1000 if least else math.inf)
    good = []
    for key in (key for key, ok in zip(keys, kept, strict=True) if ok):
        (data,) = tier.get_many(namespace, [key], deadline)
        if _marked(tiered, data, Name(namespace, key), fingerprint, None) is not None:
            good.append(key)
    return good


def stays(tiered: TieredStore, tier: ColdTier, name: Name, as_of: int) -> bool:
    """Whether a copy that the tier had when `removals` said `as_of` is there for memory to rely on. Under the lock."""
    return tiered.removals(name.namespace) == as_of and still_there(tier, name)


def whole(
    tiered: TieredStore,
    name: Name,
    fingerprint: bytes | None,
    deadline: Deadline,
    least: int | None = None,
    but: ColdTier | None = None,
) -> Buffer | None:
    """The sealed block of this spec, or of whichever it has, marked durable; None if no tier `but` one has a good copy.

    It ends no sooner than `least`, in milliseconds since 1970 (0: never); None leaves its end as it is.
    """
    with tiered.index.changed:
        entry = tiered.index.get(name)
        if entry is None or not entry.ready or fingerprint not in (None, entry.fingerprint):
            entry = None
        else:
            tiered.index.use(entry)
    try:
        if entry is not None and (marked := _marked(tiered, entry.slot.bytes, name, fingerprint, least)) is not None:
            return marked
    finally:
        if entry is not None:
            with tiered.index.changed:
                tiered.index.leave(entry)
    for tier in tiered.cold:
        if tier is but:
            continue
        (data,) = tier.get_many(name.namespace, [name.key], deadline)
        if fingerprint is not None:
            seen(tiered, tier, name, fingerprint, data)
        if (marked := _marked(tiered, data, name, fingerprint, least)) is not None:
            return marked
    return None


def _marked(
    tiered: TieredStore, data: Found, name: Name, fingerprint: bytes | None, least: int | None
) -> Buffer | None:
    if data is None or isinstance(data, CorruptBlock):
        return None
    try:
        header = opened(data, name, fingerprint or Header.parse(data).fingerprint)
    except CorruptBlock:
        return None
    if not intact(header, data[header.size :]):
        return None
    expires = header.expires if least is None else max(least, header.expires) if least and header.expires else 0
    # as if written anew: who takes it back must know it from what others put there
    sequence = tiered.next_sequence()
    marked = replace(
        header, flags=header.flags | DURABLE, expires=expires, writer=tiered.incarnation, sequence=sequence
    )
    return np.concatenate([np.frombuffer(marked.pack(), dtype=np.uint8), data[header.size :]])
