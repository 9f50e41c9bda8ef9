"""How written blocks become visible: lower tiers get those that they must have first, then the index has them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.index import Entry
from cachestore.store import copying, together
from cachestore.store.base import PutStatus
from cachestore.store.durability import secure
from cachestore.store.laying import OpenBlock
from cachestore.store.reserving import Reserved

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

AT_ONCE = 64
"""Blocks that are published under one hold of the locks, which everybody waits for."""


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
        if not self.durable and not self.tiered.staging:
            return
        entries = []
        with self.writing:
            for number in chosen:
                open_block = self.blocks.open.get(number)
                if open_block is None or not open_block.whole:
                    continue
                if self.durable or self.tiered.staged(open_block.entry.slot):
                    self._seal([open_block])
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
        published: dict[int, Entry] = {}
        try:
            for start in range(0, len(chosen), AT_ONCE):
                self._publish(chosen[start : start + AT_ONCE], published)
        finally:
            with self.tiered.index.changed:
                counters = self.tiered.counters(self.blocks.namespace)
                counters.add("put_open", -len(published))
                for tier, count in Counter(self.blocks.answers[number].tier for number in published).items():
                    counters.add("put_stored", count, tier=tier)
        return list(published.values())

    def _publish(self, numbers: Sequence[int], published: dict[int, Entry]) -> None:
        """Seals wanted blocks and adds them to those that are visible; the others fail, or were aborted meanwhile."""
        with self.writing:
            opened = {number: self.blocks.open[number] for number in numbers if number in self.blocks.open}
            whole = {number: block for number, block in opened.items() if block.whole}
            unmet = dict.fromkeys(opened.keys() - whole.keys(), PutStatus.FAILED)
            self._seal(list(whole.values()))
            with self.tiered.index.changed:
                shown = {number: block.entry for number, block in whole.items()}
                if self.durable or self.tiered.staging:
                    failed = {number: status for number, entry in shown.items() if (status := self._unmet(entry))}
                    unmet |= failed
                    shown = {number: entry for number, entry in shown.items() if number not in failed}
                self._show(shown)
                published |= shown
            for number, status in unmet.items():
                self.blocks.drop(number, status)

    def _unmet(self, entry: Entry) -> PutStatus | None:
        """What becomes of a sealed block that lacks what it needs: somebody may have removed its copies just now."""
        if self.durable and not entry.durable:
            return PutStatus.FAILED
        return PutStatus.NOT_KEPT if self.tiered.staged(entry.slot) and not entry.cold else None

    def _show(self, entries: Mapping[int, Entry]) -> None:
        staged = {entry for entry in entries.values() if self.tiered.staged(entry.slot)} if self.tiered.staging else ()
        for entry in staged:
            self.tiered.index.remove(entry)
        # a tier that is other nodes had to let these read it before
        fresh = [entry for entry in entries.values() if not entry.ready and entry not in staged]
        self.tiered.publish(fresh, self.ttl)
        memory = self.tiered.memory.name
        self.blocks.stored({number: min(entry.cold) if entry.cold else memory for number, entry in entries.items()})

    def _seal(self, blocks: Sequence[OpenBlock]) -> None:
        fresh = [block for block in blocks if not block.sealed]
        expires = 0 if self.ttl is None else round((time.time() + self.ttl) * 1000)
        numbers = iter(self.tiered.next_sequence, None)
        together.seal(fresh, self.tiered.incarnation, numbers, durable=self.durable, expires=expires)
        with self.tiered.index.changed:
            for block in fresh:
                # before any tier sees it: what lies behind the last plane is no part of the block
                if block.entry.slot.nbytes != block.nbytes:
                    self.tiered.shrink(block.entry.slot, block.nbytes)
