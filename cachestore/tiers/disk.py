"""Sealed blocks on a local disk, one file each.

1. A block is written aside and renamed into place, so a file is whole or not there; a durable one is acknowledged once
   the file and its name are flushed to the disk.
2. What is there is known in memory, and rebuilt from the sealed headers at the start: asking costs no system call.
3. Threads of its own stand between callers and a disk that may hang; one that fails or hangs is given up, and tried
   again.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event, Thread

from cachestore.block import Buffer
from cachestore.config import Bytes, Seconds
from cachestore.deadline import Deadline
from cachestore.errors import ConfigError
from cachestore.eviction.base import Eviction
from cachestore.tiers.base import ColdTier, Departed, Found, Usage
from cachestore.tiers.disk_files import Files, check
from cachestore.tiers.disk_index import DiskIndex
from cachestore.tiers.disk_lane import Lane, Work
from cachestore.tiers.disk_put import DiskPut
from cachestore.tiers.disk_scan import scan
from cachestore.tiers.disk_work import DiskWork
from cachestore.tiers.ledger import START, Ledger

THREADS = 4
"""Of each lane: so many calls may hang in the disk before others do."""

TICK = 0.25
"""Seconds between looks for blocks whose time is over, and for a disk that works again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Disk:
    """Files under the folder `path`, which no other store may use, of `capacity` bytes at most.

    A block lives as long as its header says, else for `ttl` seconds or until the next start (0: as long as there is
    room); a durable one does not end by `ttl`. A disk that does not answer for `timeout` seconds is not waited for.
    """

    path: str
    capacity: Bytes
    ttl: Seconds = 0.0
    timeout: Seconds = 5.0

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("tiers.disk.path must name a folder for this store alone")
        if self.capacity < 1 << 20:
            raise ConfigError(f"tiers.disk.capacity must be at least 1MiB, got {self.capacity}")
        if self.ttl < 0 or self.timeout <= 0:
            raise ConfigError("tiers.disk.ttl must be at least 0 seconds, and tiers.disk.timeout more than 0")

    def check(self) -> None:
        """As in `Checkable`. Whether another store has the folder is not looked at: it may be the one that runs."""
        check(self.path)

    def start(self, eviction: Eviction) -> "DiskTier":
        return DiskTier(self, eviction)


@dataclass(eq=False)
class DiskTier:
    """One folder."""

    settings: Disk
    eviction: Eviction
    name: str = "disk"
    durable: bool = True
    hot: bool = False
    below: ColdTier | None = None
    """The tier that is offered what must leave; None if that is dropped."""
    ledger: Ledger = field(init=False)
    _reading: Lane = field(init=False)
    _writing: Lane = field(init=False)
    _work: DiskWork | None = None
    _stop: Event = field(default_factory=Event)
    _keeper: Thread | None = None

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.name)
        self._reading = Lane("reading", THREADS, self.settings.timeout)
        self._writing = Lane("writing", THREADS, self.settings.timeout)

    @property
    def healthy(self) -> bool:
        return self._reading.healthy and self._writing.healthy

    def open(self, departed: Departed) -> None:
        files = Files.open(self.settings.path)
        try:
            scanned = scan(files)
            self.ledger = Ledger(self.name)
            index = DiskIndex(self.eviction, self.settings.capacity, self.ledger)
            index.found(scanned.entries, scanned.foreign)
            for departure in scanned.gone:
                self.ledger.came(departure.namespace, departure.nbytes, durable=departure.durable)
                self.ledger.went(departure.namespace, departure.nbytes, departure.why, durable=departure.durable)
            work = DiskWork(files, index, departed, self.settings.timeout, below=self.below)
            gone = scanned.gone
            # however long that takes: nobody waits for this disk yet
            work.leaving.make_room(0, gone, Deadline(math.inf), lambda: True, START)
            work.tell([*gone, *scanned.spoiled])
        except OSError as error:
            files.close()
            raise ConfigError(
                f"tiers.disk.path: {self.settings.path} cannot be read ({error.strerror}); repair it or name another"
            ) from error
        except BaseException:
            files.close()
            raise
        self._reading.open()
        self._writing.open()
        self._stop = Event()
        self._keeper = Thread(target=self._keep, args=(work, self._stop), name="cachestore-disk-keeper", daemon=True)
        self._keeper.start()
        self._work = work

    def close(self) -> None:
        work, self._work = self._work, None
        if work is None or self._keeper is None:
            return
        until = Deadline.after(self.settings.timeout)
        self._stop.set()
        ended = [self._reading.close(until), self._writing.close(until)]
        self._keeper.join(until.remaining())
        if all(ended) and not self._keeper.is_alive():
            work.files.close()
        else:
            # a descriptor closed under a thread may be another file's by the time that thread goes on
            log.warning("disk tier: the disk hangs; its folder stays locked until this process ends")

    def leading(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> int:
        present = self.present(namespace, keys, deadline)
        return present.index(False) if False in present else len(present)

    def present(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[bool]:
        work = self._work
        if work is None or not deadline.remaining() or not self._reading.healthy:
            return [False] * len(keys)
        entry_of, now = work.index.entries(namespace).get, time.time()
        return [(entry := entry_of(key)) is not None and entry.ends > now for key in keys]

    def get_many(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Found]:
        work = self._work
        found: list[Found] = [None] * len(keys)
        if work is not None and deadline.remaining() and self._reading.healthy:
            done = work.read_cached(namespace, keys, found, deadline)
            if done < len(keys):
                self._reading.run(lambda call: work.read(call, namespace, keys, done, found), deadline)
        # what a thread that hangs may still fill in is not the caller's
        return list(found)

    def protect(self, namespace: bytes, keys: Sequence[bytes]) -> list[bool]:
        work = self._work
        return work.index.protect(namespace, keys) if work is not None else [False] * len(keys)

    def unprotect(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        work = self._work
        if work is not None:
            work.index.unprotect(namespace, keys)

    def put_many(
        self,
        namespace: bytes,
        blocks: Sequence[tuple[bytes, Buffer]],
        ttl: float | None,
        deadline: Deadline,
        *,
        durable: bool = False,
    ) -> list[bool]:
        work = self._work
        kept = [False] * len(blocks)
        if work is not None and blocks:
            now = time.time()
            ends = math.inf if ttl is None else now + ttl
            cached_until = now + self.settings.ttl if self.settings.ttl else math.inf
            self._writing.run(
                lambda call: DiskPut(work, call, kept).run(namespace, blocks, ends, durable, cached_until), deadline
            )
        return kept

    def delete_many(
        self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, *, why: str = "deleted"
    ) -> list[bool] | None:
        work = self._work
        if work is None or not deadline.remaining():
            return None if keys else []
        entries = work.index.entries(namespace)
        wanted = [entry for entry in map(entries.get, dict.fromkeys(keys)) if entry is not None]
        removed: set[bytes] = set()
        if wanted and not self._removed(lambda call: work.remove(call, wanted, why, removed), deadline):
            return None
        return [key in removed for key in keys]

    def clear(self, namespace: bytes, deadline: Deadline) -> set[bytes] | None:
        work = self._work
        if work is None or not deadline.remaining():
            return None
        wanted = work.index.snapshot(namespace)
        removed: set[bytes] = set()
        if wanted and not self._removed(lambda call: work.remove(call, wanted, "cleared", removed), deadline):
            return None
        return removed

    def keys(self, namespace: bytes) -> list[bytes]:
        work = self._work
        return [entry.key for entry in work.index.snapshot(namespace) if entry.settled] if work is not None else []

    def kept(self, namespace: bytes, keys: Sequence[bytes], ends: float = 0.0) -> list[bool]:
        work = self._work
        if work is None:
            return [False] * len(keys)
        entry_of, now = work.index.entries(namespace).get, time.time()
        return [
            (e := entry_of(key)) is not None and e.durable and e.settled and e.ends > now and e.ends >= ends
            for key in keys
        ]

    def durable_bytes(self, namespace: bytes) -> int:
        return self.ledger.content(namespace).durable

    def recount(self, namespace: bytes, deadline: Deadline) -> None:
        """Nobody else uses the folder."""

    def look(self, deadline: Deadline) -> None:
        """The index knows what is there."""

    def usage(self, deadline: Deadline | None = None) -> Usage:
        work = self._work
        used = work.index.used if work is not None and self.healthy else 0
        return Usage(used, self.settings.capacity)

    def _removed(self, work: Work, deadline: Deadline) -> bool:
        # a full disk is given up, and this is what makes room on it
        return self._writing.run(work, deadline, given_up=True)

    def _keep(self, work: DiskWork, stop: Event) -> None:
        """Removes what is over, and finds out when a disk given up works again."""
        while not stop.wait(TICK):
            if not self._writing.breaker.open:
                self._writing.attempt(work.collect)
            elif self._writing.breaker.allows():
                self._writing.attempt(work.revive)
            if self._reading.breaker.open and self._reading.breaker.allows():
                self._reading.attempt(work.probe)
