"""What leaves the folder, for others above all: each of those is offered to the tier below first.

What the index says and what the folder has change together, under `changes`. On its way down a block holds up neither
readers nor writers, however long the tier below takes: only who wants it removed waits for it, since a copy that
arrived behind its removal would bring it back.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Lock

from cachestore.block import Buffer
from cachestore.deadline import Deadline
from cachestore.seal import CorruptBlock, Header, checksums
from cachestore.tiers.base import ColdTier, Departure
from cachestore.tiers.disk_entry import DiskEntry
from cachestore.tiers.disk_files import Files
from cachestore.tiers.disk_index import DiskIndex
from cachestore.tiers.ledger import CAPACITY
from cachestore.tiers.spare import Memory

LOOK = 0.05
"""Seconds between looks whether a caller still waits for others to leave."""


@dataclass(eq=False)
class Leaving:
    """The ways out of one folder."""

    files: Files
    index: DiskIndex
    memory: Memory
    patience: float
    """Seconds after which a disk that says nothing hangs; the tier below has half of them for a block."""
    below: ColdTier | None
    """Who is offered what must leave."""
    changes: Condition = field(default_factory=lambda: Condition(Lock()))
    _under_way: set[DiskEntry] = field(default_factory=set)
    """What is being offered now. Changes under `changes`."""

    def drop(self, entry: DiskEntry, why: str, gone: list[Departure], reason: str = "", *, leased: bool = True) -> bool:
        """Takes a block out of the folder and the index, unless another has its place by now. Under `changes`.

        Without `leased`, one that a lease protects stays.
        """
        if not self.index.take(entry, leased=leased):
            return False
        try:
            self.files.remove(entry.namespace, entry.key)
        except OSError:
            self.index.restore(entry)
            raise
        self.index.gone(entry, why, reason)
        gone.append(entry.departure(why, reason))
        return True

    def lost(self, entry: DiskEntry, gone: list[Departure]) -> None:
        """Drops a block that a reader could not get, unless it is leaving anyway. Under `changes`."""
        if not self._is_under_way(entry):
            self.drop(entry, "lost", gone)

    def arrived(self, entry: DiskEntry, goes_on: Callable[[], bool]) -> bool:
        """Waits, under `changes`, until no block of this key is on its way down; False if it need not go on before."""
        while self._is_under_way(entry):
            if not goes_on():
                return False
            self.changes.wait(LOOK)
        return True

    def make_room(
        self,
        nbytes: int,
        gone: list[Departure],
        until: Deadline,
        goes_on: Callable[[], bool],
        reason: str = CAPACITY,
    ) -> bool:
        """Reserves room for a file of `nbytes`, others leaving for it as far as they may: for that `reason`.

        False as well if it need not go on, or has no time left, before.
        """
        if not self.index.could_hold(nbytes):
            return False
        if self.index.reserve(nbytes):
            return True
        with self.changes:
            while not self.index.reserve(nbytes):
                if not goes_on() or not until.remaining():
                    return False
                if (entry := self.index.overdue()) is not None:
                    self.drop(entry, "ttl", gone, leased=False)
                elif (entry := self.index.evict()) is not None:
                    self._evict(entry, gone, until, reason)
                elif self._under_way:
                    # the room that others are making may be more than they need
                    self.changes.wait(LOOK)
                else:
                    return False
        return True

    def _evict(self, entry: DiskEntry, gone: list[Departure], until: Deadline, reason: str) -> None:
        try:
            with self._on_its_way(entry):
                why, because = self._offered(entry, until), reason
        except CorruptBlock as corrupt:
            why, because = "corrupt", corrupt.reason
        except MemoryError:
            # it cannot be handed down now, and is in nobody's order any more
            why, because = "evicted", reason
        self.drop(entry, why, gone, because, leased=False)

    @contextmanager
    def _on_its_way(self, entry: DiskEntry) -> Iterator[None]:
        """Lets go of `changes` meanwhile."""
        self._under_way.add(entry)
        self.changes.release()
        try:
            yield
        finally:
            self.changes.acquire()
            self._under_way.discard(entry)
            self.changes.notify_all()

    def _offered(self, entry: DiskEntry, until: Deadline) -> str:
        """Offers a block that must leave to the tier below; why it leaves. CorruptBlock if it is not what was put."""
        if self.below is None:
            return "evicted"
        data = self.memory.take(entry.nbytes)
        try:
            self.files.read(entry.namespace, entry.key, data, lambda: True)
        except (FileNotFoundError, NotADirectoryError):
            return "lost"
        except OSError:
            return "evicted"
        _check(entry, data)
        # what it leaves for is to be written in the other half
        seconds = min(self.patience, until.remaining()) / 2
        if not seconds:
            return "evicted"
        # it lives no longer there than it would here
        ttl = None if entry.ends == math.inf else max(1e-3, entry.ends - time.time())
        (taken,) = self.below.put_many(entry.namespace, [(entry.key, data)], ttl, Deadline.after(seconds))
        return "demoted" if taken else "evicted"

    def _is_under_way(self, entry: DiskEntry) -> bool:
        # another block of this key may have come since: what counts is what would be below
        return any((each.namespace, each.key) == (entry.namespace, entry.key) for each in self._under_way)


def _check(entry: DiskEntry, data: Buffer) -> None:
    """CorruptBlock unless these are the bytes of this block, each as it was put."""
    header = Header.parse(data)
    DiskEntry.of(entry.namespace, entry.key, data.nbytes, header)
    rows = header.stored(range(len(header.table)))
    pieces = [slice(header.size + row.offset, header.size + row.offset + row.stored_bytes) for row in rows]
    if checksums(data, pieces) != [row.stored_checksum for row in rows]:
        raise CorruptBlock("checksum")
