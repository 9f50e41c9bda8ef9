"""One batch of blocks on its way to the disk: written aside, flushed if durable, given their names, acknowledged."""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock, Header
from cachestore.tiers.base import Departure
from cachestore.tiers.disk_entry import DiskEntry
from cachestore.tiers.disk_files import folder_of, write
from cachestore.tiers.disk_lane import Call
from cachestore.tiers.disk_work import DiskWork

GROUP = 32
"""Blocks whose flushes share the disk's work; as many files are open at once."""


@dataclass(eq=False)
class _Item:
    place: int
    entry: DiskEntry
    data: Buffer
    reserved: bool = False
    name: str = ""
    descriptor: int = -1
    old: DiskEntry | None = None


@dataclass(eq=False)
class DiskPut:
    """In `kept` which blocks are there, as soon as they are; what is not by the time the caller leaves never is."""

    work: DiskWork
    call: Call
    kept: list[bool]
    _gone: list[Departure] = field(default_factory=list)
    _troubles: list[OSError] = field(default_factory=list)

    def run(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ends: float,
        durable: bool,
        cached_until: float = math.inf,
    ) -> bool:
        """Writes the blocks; `ends` and `durable` hold where their headers do not say more.

        Those that are not durable end at `cached_until` where nobody says when.
        """
        wrote = False
        try:
            for first in range(0, len(blocks), GROUP):
                items = []
                for place, (key, data) in enumerate(blocks[first : first + GROUP], first):
                    # a header that does not fit would be removed at the next start
                    with suppress(CorruptBlock):
                        entry = DiskEntry.of(namespace, key, data.nbytes, Header.parse(data))
                        entry.ends = ends if entry.ends == math.inf else entry.ends
                        entry.durable |= durable
                        if entry.ends == math.inf and not entry.durable:
                            entry.ends = cached_until
                        items.append(_Item(place, entry, data))
                wrote |= self._write(items)
        finally:
            self.work.tell(self._gone)
        if self._troubles:
            raise self._troubles[-1]
        return wrote

    def _write(self, items: list[_Item]) -> bool:
        for step in (self._write_aside, _flush, self._install):
            try:
                items = [item for item in items if self._did(step, item)]
            except BaseException:
                for item in items:
                    self._undo(item)
                raise
        durable = [item for item in items if item.entry.durable]
        if durable:
            self._settle(durable)
        return bool(items)

    def _did(self, step: Callable[[_Item], bool], item: _Item) -> bool:
        try:
            if self.call.goes_on() and step(item):
                return True
        except OSError as error:
            self._troubles.append(error)
        self._undo(item)
        return False

    def _undo(self, item: _Item) -> None:
        """Gives back what a block has that is not installed. Undoing twice is allowed."""
        if item.descriptor >= 0:
            with suppress(OSError):
                os.close(item.descriptor)
        if item.name:
            self.work.files.discard(item.name)
        if item.reserved:
            self.work.index.release(item.entry.nbytes)
        item.descriptor, item.name, item.reserved = -1, "", False

    def _write_aside(self, item: _Item) -> bool:
        if self._stays(item):
            return False
        item.reserved = self.work.leaving.make_room(
            item.entry.nbytes, self._gone, self.call.deadline, self.call.goes_on
        )
        if not item.reserved:
            return False
        item.name, item.descriptor = self.work.files.create()
        return write(item.descriptor, item.data, self.call.goes_on)

    def _stays(self, item: _Item) -> bool:
        """Whether a durable block is there whose place this one may not take; then that is kept."""
        there = self.work.index.entries(item.entry.namespace).get(item.entry.key)
        if item.entry.durable or there is None or not there.durable or there.ends <= time.time():
            return False
        with self.call.lock:
            self.kept[item.place] = there.settled and not self.call.over
        return True

    def _install(self, item: _Item) -> bool:
        entry = item.entry
        with self.work.leaving.changes:
            if self._stays(item):
                return False
            item.old = self.work.index.entries(entry.namespace).get(entry.key)
            self.work.files.install(item.name, entry.namespace, entry.key)
            item.name, item.reserved = "", False
            entry.settled = not entry.durable
            self.work.index.add(entry)
            if entry.settled:
                self._acknowledge(item)
        return True

    def _settle(self, items: Sequence[_Item]) -> None:
        """Lets the names of durable blocks survive a loss of power; only then they are there."""
        try:
            self.work.files.sync({folder_of(item.entry.namespace, item.entry.key) for item in items})
        except OSError as error:
            self._troubles.append(error)
            settled = False
        else:
            settled = True
        with self.work.leaving.changes:
            for item in items:
                if settled:
                    self._acknowledge(item)
                else:
                    self._withdraw(item)

    def _acknowledge(self, item: _Item) -> None:
        with self.call.lock:
            if not self.call.over:
                item.entry.settled = self.kept[item.place] = True
                return
        self._withdraw(item)

    def _withdraw(self, item: _Item) -> None:
        """The caller was told that it is not there; one that took the place of one like it stays for that one."""
        entry, old = item.entry, item.old
        if old is not None and (old.durable or not entry.durable):
            # after a loss of power either is there, whole
            entry.settled |= old.settled
            return
        with suppress(OSError):
            # memory may rely on the cache copy that was there; nobody relies on what never was
            self.work.leaving.drop(entry, "withdrawn", [] if old is None else self._gone)


def _flush(item: _Item) -> bool:
    try:
        if item.entry.durable:
            os.fsync(item.descriptor)
    finally:
        # closed even where closing fails
        descriptor, item.descriptor = item.descriptor, -1
        os.close(descriptor)
    return True
