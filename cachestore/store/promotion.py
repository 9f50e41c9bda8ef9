"""Blocks on their way up: from a cold tier into memory, from memory into a hot tier."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.index import Name
from cachestore.seal import DURABLE, CorruptBlock, Header
from cachestore.store import room
from cachestore.store.copying import MOVE_SECONDS, copyable, still_there, under_way
from cachestore.store.inspection import intact, opened
from cachestore.store.leases import Held, Holding
from cachestore.store.popularity import Popularity
from cachestore.tiers.base import ColdTier
from cachestore.tiers.ledger import PROMOTION

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

PROMOTION_BYTES = 64 << 20
"""Blocks on their way back into memory may hold this much; further ones stay where they are."""


class Arrival(NamedTuple):
    """A block that was read from the tier `tier`; `parent` is the key before it in its chain, if it has one.

    `as_of` is what `removals` said before it was read: a removal since then may mean this block. It comes into memory
    with its `after`th read, if it is not fetched for another reason.
    """

    name: Name
    parent: bytes | None
    header: Header
    sealed: Buffer
    tier: str
    as_of: int
    after: int = 1


@dataclass(eq=False)
class Promotion:
    """Decides by how often a block was read lately, and moves in the background."""

    tiered: TieredStore
    popularity: Popularity = field(default_factory=Popularity)
    _underway: int = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way into memory."""
        return not self._underway

    def used(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """The leading blocks of a chain were read: they count as used, and popular ones go up. Under the lock."""
        tiered = self.tiered
        tiered.index.touch(namespace, keys)
        counts = self.popularity.read(namespace, keys)
        popular = [key for key, count in zip(keys, counts, strict=True) if count >= tiered.settings.hot_after]
        for tier in tiered.hot:
            there = tier.present(namespace, popular, Deadline.after(MOVE_SECONDS))
            missing = [key for key, present in zip(popular, there, strict=True) if not present]
            if missing:
                tiered.mover.submit(partial(self._heat, tier, namespace, missing))

    def promote(self, arrival: Arrival) -> None:
        """Brings a block that was read from a cold tier into memory, in the background, if it is popular."""
        tiered = self.tiered
        with tiered.index.changed:
            # the read that brings it here is counted when it ends
            popular = self.popularity.reads(arrival.name) + 1 >= arrival.after
            if not popular or not self._admit(arrival):
                return

        def bring() -> None:
            self._promote(arrival, Deadline.after(MOVE_SECONDS))

        if tiered.mover.submit(bring) is None:
            with tiered.index.changed:
                self._underway -= arrival.sealed.nbytes

    def prefetch(self, holding: Holding) -> None:
        """Brings the cold blocks under a lease into memory in the background, before they are read."""
        cold = [held for held in holding.blocks if held.entry is None]
        if cold and self.tiered.settings.prefetch:
            # what another node has in its memory gets a copy here only if it is read often
            self.tiered.mover.submit(lambda: self.fetch(holding, self.tiered.lower, Deadline.after(MOVE_SECONDS)))

    def fetch(self, holding: Holding, tiers: Sequence[ColdTier], deadline: Deadline) -> None:
        """Brings the blocks under a lease that are in `tiers` into memory now, as far as there is time and room.

        There the lease protects them, or those behind would drive out those before.
        """
        tiered, namespace = self.tiered, holding.namespace
        parents = dict(pairwise(held.key for held in reversed(holding.blocks)))
        for tier in tiers:
            cold = [held for held in holding.blocks if held.entry is None and held.tier == tier.name]
            while cold:
                if holding.over or not deadline.remaining():
                    return
                most = tiered.batches.blocks(namespace, holding.fingerprint)
                batch, cold = cold[:most], cold[most:]
                # others may have brought them up since
                self._protect(holding, batch)
                batch = [held for held in batch if not self._in_memory(namespace, held.key)]
                if not batch:
                    continue
                as_of = tiered.removals(namespace)
                found = tier.get_many(namespace, [held.key for held in batch], deadline)
                for held, data in zip(batch, found, strict=True):
                    name = Name(namespace, held.key)
                    try:
                        if data is not None and not isinstance(data, CorruptBlock):
                            header = opened(data, name, holding.fingerprint, tiered.memory.largest())
                            tiered.batches.saw(namespace, holding.fingerprint, data.nbytes)
                            arrival = Arrival(name, parents.get(held.key), header, data, tier.name, as_of)
                            # what is fetched beyond would be fetched for nothing
                            if not self.bring(arrival, deadline):
                                return
                            self._protect(holding, [held])
                    except CorruptBlock:
                        continue  # whoever reads it finds out what is wrong with it, and counts it

    def _protect(self, holding: Holding, blocks: Sequence[Held]) -> None:
        """Has a lease protect those of its blocks that are in memory by now."""
        index = self.tiered.index
        with index.changed:
            if holding.over:
                return
            ready = index.ready(holding.namespace, holding.fingerprint)
            for held in blocks:
                entry = ready.get(held.key)
                if held.entry is None and entry is not None:
                    index.use(entry)
                    held.entry = entry

    def _admit(self, arrival: Arrival) -> bool:
        nbytes = arrival.sealed.nbytes
        if self._underway + nbytes > PROMOTION_BYTES or self.tiered.index.get(arrival.name) is not None:
            return False
        self._underway += nbytes
        return True

    def _in_memory(self, namespace: bytes, key: bytes) -> bool:
        with self.tiered.index.changed:
            return self.tiered.index.get(Name(namespace, key)) is not None

    def bring(self, arrival: Arrival, deadline: Deadline) -> bool:
        """Brings a block that was read elsewhere into memory now, popular or not; False if there is no room for it."""
        with self.tiered.index.changed:
            if self.tiered.index.get(arrival.name) is not None:
                return True
            if not self._admit(arrival):
                return False
        return self._promote(arrival, deadline)

    def _promote(self, arrival: Arrival, deadline: Deadline) -> bool:
        """Brings an admitted block into memory, unless something speaks against it; False if there is no room."""
        tiered, (name, parent, header, sealed, tier, as_of, _) = self.tiered, arrival
        try:
            left = header.expires / 1000 - time.time() if header.expires else math.inf
            if left <= 0 or not deadline.remaining():
                return True
            slot = room.take(tiered, name.namespace, sealed.nbytes, deadline, reason=PROMOTION)
            if slot is None:
                return False
            np.copyto(slot.bytes, sealed)
            # looked at only now: the memory is its reader's, who may have written into it
            sound = slot.bytes[: header.size].tobytes() == header.packed and intact(header, slot.bytes[header.size :])
            with tiered.index.changed:
                if not sound or tiered.index.get(name) is not None or tiered.removals(name.namespace) != as_of:
                    tiered.give(slot)
                    return True
                entry = tiered.index.reserve(name, header.fingerprint, slot, parent)
                entry.cold.update(cold.name for cold in tiered.cold if cold.name == tier and still_there(cold, name))
                entry.durable = bool(header.flags & DURABLE)
                tiered.publish([entry], None if left == math.inf else left)
                tiered.counters(name.namespace).add("promoted", tier=tiered.memory.name)
                return True
        finally:
            with tiered.index.changed:
                self._underway -= sealed.nbytes

    def _heat(self, tier: ColdTier, namespace: bytes, keys: Sequence[bytes]) -> None:
        tiered = self.tiered
        # every read asks for it until it is there
        present = tier.present(namespace, keys, Deadline.after(MOVE_SECONDS))
        keys = [key for key, there in zip(keys, present, strict=True) if not there]
        with tiered.index.changed:
            as_of = tiered.removals(namespace)
            found = [tiered.index.get(Name(namespace, key)) for key in keys]
            entries = [entry for entry in found if entry is not None and entry.ready]
            for entry in entries:
                tiered.index.use(entry)
        try:
            with under_way(tiered, copyable(tiered, entries)) as wanted:
                blocks = [(entry.name.key, entry.slot.bytes) for entry in wanted]
                kept = tier.put_many(namespace, blocks, None, Deadline.after(MOVE_SECONDS))
                tiered.counters(namespace).add("promoted", sum(kept), tier=tier.name)
                there = [key for (key, _), ok in zip(blocks, kept, strict=True) if ok]
                tiered.events.changed(tier, namespace, there, there=True)
                if tiered.removals(namespace) != as_of:
                    tier.delete_many(namespace, there, Deadline.after(MOVE_SECONDS))
                    tiered.events.changed(tier, namespace, there, there=False)
        finally:
            with tiered.index.changed:
                for entry in entries:
                    tiered.index.leave(entry)
