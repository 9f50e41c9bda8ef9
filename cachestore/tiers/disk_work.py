"""What is read and removed on the disk, on threads that the disk may hold up.

Readers wait for what changes the folder only if what they found does not fit the index.
"""

import errno
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cachestore.block import Buffer
from cachestore.deadline import Deadline, held_until
from cachestore.seal import CorruptBlock
from cachestore.tiers.base import ColdTier, Departed, Departure, Found
from cachestore.tiers.disk_cached import Cached
from cachestore.tiers.disk_entry import DiskEntry
from cachestore.tiers.disk_files import Files, folder_of, place_of
from cachestore.tiers.disk_index import DiskIndex
from cachestore.tiers.disk_lane import Call
from cachestore.tiers.disk_leaving import Leaving
from cachestore.tiers.spare import Memory

SPARE_BYTES = 32 << 20
"""Memory that waits for the next read."""

TOGETHER = 8
"""Files that are opened before the first is read: behind a block's bytes no cache would still have what that takes."""

_MISSING = (FileNotFoundError, NotADirectoryError)


@dataclass(eq=False)
class DiskWork:
    """The folder and its index."""

    files: Files
    index: DiskIndex
    departed: Departed
    patience: float
    """Seconds that a reader waits for changes of the folder."""
    below: ColdTier | None = None
    """Who is offered what must leave."""
    cached: Cached = field(init=False)
    leaving: Leaving = field(init=False)
    memory: Memory = field(default_factory=lambda: Memory(SPARE_BYTES))

    def __post_init__(self) -> None:
        self.cached = Cached(self.files.root)
        self.leaving = Leaving(self.files, self.index, self.memory, self.patience, self.below)

    def read_cached(self, namespace: bytes, keys: Sequence[bytes], found: list[Found], deadline: Deadline) -> int:
        """Reads leading blocks that are in the kernel's memory into `found`; how many of the keys are dealt with."""
        entries = self.index.use(namespace, keys)
        there = [(place, entry) for place, entry in enumerate(entries) if entry is not None]
        try:
            self.index.touch(entries)
            for first in range(0, len(there), TOGETHER):
                batch = there[first : first + TOGETHER]
                filled = self._in_memory([entry for _, entry in batch], deadline)
                for (place, _), buffer in zip(batch, filled, strict=False):
                    found[place] = buffer
                if len(filled) < len(batch):
                    return batch[len(filled)][0]
            return len(entries)
        finally:
            self.index.leave(entries)

    def _in_memory(self, entries: Sequence[DiskEntry], deadline: Deadline) -> list[Buffer]:
        """The leading ones of these blocks, as far as the kernel has them in memory and there is time."""
        opened: list[tuple[Buffer, int]] = []
        filled: list[Buffer] = []
        try:
            for entry in entries:
                buffer = self.memory.take(entry.nbytes)
                descriptor = self.cached.open(place_of(entry.namespace, entry.key), entry.nbytes)
                if descriptor < 0:
                    break
                opened.append((buffer, descriptor))
            for buffer, descriptor in opened:
                if not deadline.remaining() or not self.cached.fill(buffer, descriptor):
                    break
                filled.append(buffer)
        finally:
            for _, descriptor in opened:
                os.close(descriptor)
        return filled

    def read(self, call: Call, namespace: bytes, keys: Sequence[bytes], first: int, found: list[Found]) -> bool:
        """Reads the blocks from the `first` on into `found`."""
        gone: list[Departure] = []
        trouble: OSError | None = None
        entries = self.index.use(namespace, keys[first:])
        try:
            for place, entry in enumerate(entries, first):
                if entry is None or not call.goes_on():
                    continue
                try:
                    found[place] = self._read(call, entry, gone)
                except OSError as error:
                    trouble = error
        finally:
            self.index.leave(entries)
            self.tell(gone)
        if trouble is not None:
            raise trouble
        return any(entry is not None for entry in entries)

    def remove(self, call: Call, entries: Sequence[DiskEntry], why: str, removed: set[bytes]) -> bool:
        """Removes blocks; in `removed` the keys of those there were."""
        gone: list[Departure] = []
        folders = set()
        try:
            for entry in entries:
                if not call.goes_on():
                    return False
                with self.leaving.changes:
                    if not self.leaving.arrived(entry, call.goes_on):
                        return False
                    if entry.ends <= time.time():
                        self.leaving.drop(entry, "ttl", gone)
                    elif not (why == "corrupt" and entry.durable) and self.leaving.drop(entry, why, []):
                        removed.add(entry.key)
                if entry.durable:
                    folders.add(folder_of(entry.namespace, entry.key))
            if folders:
                # or it would be there again after a loss of power
                self.files.sync(folders)
            call.finish()
        finally:
            self.tell(gone)
        return bool(entries)

    def collect(self) -> bool:
        """Removes the blocks whose time is over; whether there were any."""
        gone: list[Departure] = []
        try:
            with self.leaving.changes:
                while (entry := self.index.overdue()) is not None:
                    self.leaving.drop(entry, "ttl", gone, leased=False)
        finally:
            self.tell(gone)
        return bool(gone)

    def revive(self) -> bool:
        """Writes and removes a small file: whether writing works. What is over leaves first: the disk may be full."""
        self.collect()
        return self.files.probe()

    def probe(self) -> bool:
        """Reads a byte of some block: whether reading works."""
        entry = self.index.some()
        if entry is not None:
            with suppress(*_MISSING, CorruptBlock):
                self.files.front(entry.namespace, entry.key, 1)
        return True

    def tell(self, gone: Sequence[Departure]) -> None:
        """Reports blocks that left. No lock is held."""
        if gone:
            self.departed(gone)

    def _read(self, call: Call, entry: DiskEntry, gone: list[Departure]) -> Found:
        try:
            return self._bytes(call, entry)
        except (*_MISSING, CorruptBlock):
            return self._read_again(call, entry, gone)
        except OSError as error:
            if error.errno == errno.EIO and not entry.durable:
                # so that nobody asks for it again
                with held_until(self.leaving.changes, Deadline.after(self.patience)) as held:
                    if held:
                        self.leaving.lost(entry, gone)
            raise

    def _read_again(self, call: Call, entry: DiskEntry, gone: list[Departure]) -> Found:
        """What was found did not fit the index: unless it was just changing, the file is wrong."""
        with held_until(self.leaving.changes, Deadline.after(self.patience)) as held:
            if not held:
                return None
            now = self.index.entries(entry.namespace).get(entry.key)
            if now is None:
                return None
            try:
                return self._bytes(call, now)
            except _MISSING:
                self.leaving.lost(now, gone)
                return None
            except CorruptBlock as corrupt:
                return corrupt

    def _bytes(self, call: Call, entry: DiskEntry) -> Found:
        buffer = self.memory.take(entry.nbytes)
        return buffer if self.files.read(entry.namespace, entry.key, buffer, call.goes_on) else None
