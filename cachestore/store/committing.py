"""How written blocks become visible: lower tiers get those that they must have first, then the index has them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry
from cachestore.store import copying
from cachestore.store.base import PutStatus
from cachestore.store.durability import secure
from cachestore.store.laying import OpenBlock
from cachestore.store.reserving import Reserved

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


@dataclass(eq=False)
class Committing:
    """The blocks of one put, at its commit. `writing` is held while bytes go into a slot, or a slot changes hands."""

    tiered: TieredStore
    blocks: Reserved
    writing: Lock
    durable: bool
    ttl: float | None
    deadline: Deadline

    def gather(self, chosen: Sequence[int]) -> None:
        """Makes final what this put wrote of joint blocks; those stay open with which everything is there."""
        for number in chosen:
            with self.writing:
                self.blocks.finish(number)

    def lower(self, chosen: Sequence[int]) -> None:
        """Hands to lower tiers what must be there first: durable blocks, and those that memory has no room for."""
        entries = []
        with self.writing:
            for number in chosen:
                open_block = self.blocks.open.get(number)
                if open_block is None or not open_block.whole:
                    continue
                if self.durable or self.tiered.staged(open_block.entry.slot):
                    self._seal(open_block)
                    open_block.entry.ends = math.inf if self.ttl is None else time.monotonic() + self.ttl
                    entries.append(open_block.entry)
            with self.tiered.index.changed:
                for entry in entries:
                    self.tiered.index.use(entry)
        try:
            if entries and self.durable:
                secure(self.tiered, entries, self.deadline)
            elif entries:
                copying.copy_down(self.tiered, entries, self.deadline, everywhere=False)
        finally:
            with self.tiered.index.changed:
                for entry in entries:
                    self.tiered.index.leave(entry)

    def publish(self, chosen: Sequence[int]) -> list[Entry]:
        """Makes blocks visible that are whole, and counts them; the others fail. Which of them are there now."""
        published: list[Entry] = []
        stored: Counter[str] = Counter()
        try:
            for number in chosen:
                entry = self._publish(number)
                if entry is not None:
                    published.append(entry)
                    stored[self.blocks.answers[number].tier] += 1
        finally:
            with self.tiered.index.changed:
                counters = self.tiered.counters(self.blocks.namespace)
                counters.add("put_open", -len(published))
                for tier, count in stored.items():
                    counters.add("put_stored", count, tier=tier)
        return published

    def _publish(self, number: int) -> Entry | None:
        """Seals a wanted block and makes it visible; None if it is not wanted, not whole, or was aborted meanwhile."""
        with self.writing:
            open_block = self.blocks.open.get(number)
            if open_block is None:
                return None
            if not open_block.whole:
                self.blocks.drop(number, PutStatus.FAILED)
                return None
            entry = open_block.entry
            self._seal(open_block)
            with self.tiered.index.changed:
                staged = self.tiered.staged(entry.slot)
                # somebody may have removed the copies just now
                unmet = PutStatus.FAILED if self.durable and not entry.durable else None
                if unmet is None and staged and not entry.cold:
                    unmet = PutStatus.NOT_KEPT
                if unmet is None:
                    if staged:
                        self.tiered.index.remove(entry)
                    elif not entry.ready:
                        # a tier that is other nodes had to let these read it before
                        self.tiered.publish(entry, self.ttl)
                    self.blocks.stored(number, min(entry.cold) if entry.cold else self.tiered.memory.name)
            if unmet is not None:
                self.blocks.drop(number, unmet)
                return None
            return entry

    def _seal(self, open_block: OpenBlock) -> None:
        if open_block.sealed:
            return
        expires = 0 if self.ttl is None else round((time.time() + self.ttl) * 1000)
        sequence = self.tiered.next_sequence()
        open_block.seal(self.tiered.incarnation, sequence, durable=self.durable, expires=expires)
        with self.tiered.index.changed:
            # before any tier sees it: what lies behind the last plane is no part of the block
            self.tiered.shrink(open_block.entry.slot, open_block.nbytes)
