"""What is on the disk, in memory: presence without a system call, room under the cap, and who leaves first."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from cachestore.ends import Ends
from cachestore.eviction.base import Eviction, Order
from cachestore.tiers.disk_entry import DiskEntry, chains, room
from cachestore.tiers.ledger import Ledger


@dataclass(eq=False)
class _Namespace:
    order: Order
    leased: Counter[bytes]
    entries: dict[bytes, DiskEntry] = field(default_factory=dict)
    names: dict[Hashable, DiskEntry] = field(default_factory=dict)
    used: int = 0

    def stays(self, name: Hashable) -> bool:
        """Whether a block may not be evicted now."""
        entry = self.names[name]
        return entry.durable or entry.users > 0 or entry.key in self.leased


@dataclass(eq=False)
class DiskIndex:
    """Every block of the folder. Locks itself; no system call is made under its lock."""

    eviction: Eviction
    capacity: int
    ledger: Ledger
    used: int = 0
    """Bytes of files that are there, being written, or not removed yet: at most `capacity`."""
    _staying: int = 0
    """Bytes of what never leaves for others, and of what does not as long as it is leased."""
    _leased: defaultdict[bytes, Counter[bytes]] = field(default_factory=lambda: defaultdict(Counter))
    """By namespace and key, how many leases protect what is there under the key."""
    _namespaces: dict[bytes, _Namespace] = field(default_factory=dict)
    _ending: Ends[tuple[bytes, bytes]] = field(init=False)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._ending = Ends(self._ends_at)

    def entries(self, namespace: bytes) -> Mapping[bytes, DiskEntry]:
        """The blocks of one namespace, as they change. Asking for one key needs no lock: a dict answers whole."""
        held = self._namespaces.get(namespace)
        return held.entries if held is not None else {}

    def snapshot(self, namespace: bytes) -> list[DiskEntry]:
        """The blocks of one namespace now."""
        with self._lock:
            return list(self.entries(namespace).values())

    def some(self) -> DiskEntry | None:
        """Any block, if there is one."""
        with self._lock:
            return next((entry for held in self._namespaces.values() for entry in held.entries.values()), None)

    def use(self, namespace: bytes, keys: Sequence[bytes]) -> list[DiskEntry | None]:
        """The blocks of these keys; none of them is evicted until `leave`."""
        now = time.time()
        with self._lock:
            held = self._namespaces.get(namespace)
            if held is None:
                return [None] * len(keys)
            found = [
                entry if entry and (entry.ends > now or entry.key in held.leased) else None
                for entry in map(held.entries.get, keys)
            ]
            for entry in found:
                if entry is not None:
                    entry.users += 1
            return found

    def touch(self, entries: Sequence[DiskEntry | None]) -> None:
        """These blocks of one namespace were read."""
        with self._lock:
            # of blocks that do not know each other the first is the one that stays longest, as in a chain
            for chain in reversed(list(chains(entries))):
                held = self._namespaces.get(chain[0].namespace)
                if held is not None:
                    held.order.touch([entry.name for entry in chain])

    def leave(self, entries: Sequence[DiskEntry | None]) -> None:
        """Ends what `use` began."""
        with self._lock:
            for entry in entries:
                if entry is not None:
                    entry.users -= 1

    def protect(self, namespace: bytes, keys: Sequence[bytes]) -> list[bool]:
        """Which of these blocks are there; they neither leave for others nor end by their time until `unprotect`."""
        now = time.time()
        with self._lock:
            entries, leased = self.entries(namespace), self._leased[namespace]
            there = [(entry := entries.get(key)) is not None and entry.ends > now for key in keys]
            for key in (key for key, ok in zip(keys, there, strict=True) if ok):
                self._staying += 0 if self._stays(entries[key]) else room(entries[key].nbytes)
                leased[key] += 1
            return there

    def unprotect(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """Ends what `protect` began for those of the keys that it found there."""
        with self._lock:
            entries, leased = self.entries(namespace), self._leased[namespace]
            for key in keys:
                leased[key] -= 1
                if leased[key] > 0:
                    continue
                del leased[key]
                entry = entries.get(key)
                if entry is None:
                    continue
                self._staying -= 0 if entry.durable else room(entry.nbytes)
                # it may have been due meanwhile, and was passed over
                if entry.ends != math.inf:
                    self._ending.add(entry.ends, (namespace, key))

    def reserve(self, nbytes: int) -> bool:
        """Takes room for a file, if there is enough."""
        with self._lock:
            if self.used + room(nbytes) > self.capacity:
                return False
            self.used += room(nbytes)
            return True

    def release(self, nbytes: int) -> None:
        """Gives back the room of a file that was not written after all."""
        with self._lock:
            self.used -= room(nbytes)

    def could_hold(self, nbytes: int) -> bool:
        """Whether there is room for a file once all has left that may now."""
        return room(nbytes) + self._staying <= self.capacity

    def add(self, entry: DiskEntry) -> None:
        """A file got its block's name; its room is reserved, and that of the one it replaced is given back."""
        with self._lock:
            old = self.entries(entry.namespace).get(entry.key)
            if old is not None:
                self._take(old)
                self._gone(old, "replaced")
            self._put(entry)
            self._came(entry)

    def found(self, entries: Sequence[DiskEntry], foreign: int = 0) -> None:
        """Files found at the start, the one to leave first first: they may take more than there is room for.

        `foreign` bytes beside them are taken by what stays for as long as the tier is open.
        """
        with self._lock:
            self.used += foreign
            self._staying += foreign
            for entry in entries:
                self.used += room(entry.nbytes)
                self._put(entry)
                self._came(entry)

    def take(self, entry: DiskEntry, *, leased: bool = True) -> bool:
        """Takes a block out, if it is there; it holds its room until it is `gone`.

        Without `leased`, one that a lease protects by now stays.
        """
        with self._lock:
            held = self._namespaces.get(entry.namespace)
            if held is None or held.entries.get(entry.key) is not entry:
                return False
            if not leased and entry.key in held.leased:
                held.order.insert(entry.name, entry.nbytes, entry.parent)
                return False
            self._take(entry)
            return True

    def gone(self, entry: DiskEntry, why: str, reason: str = "") -> None:
        """The file of a block taken out is gone; `reason` is what others needed for whom it left."""
        with self._lock:
            self._gone(entry, why, reason)

    def restore(self, entry: DiskEntry) -> None:
        """Puts a block back whose file would not go."""
        with self._lock:
            self._put(entry)

    def overdue(self) -> DiskEntry | None:
        """A block whose time is over, to be taken out unless it is leased; None if there is none."""
        with self._lock:
            name = self._ending.due(time.time())
            return self.entries(name[0])[name[1]] if name is not None else None

    def evict(self) -> DiskEntry | None:
        """The block that should leave first, to be taken out: of the namespace that holds most, where one may leave."""
        with self._lock:
            for held in sorted(self._namespaces.values(), key=lambda held: -held.used):
                name = held.order.evict(held.stays)
                if name is not None:
                    return held.names[name]
            return None

    def _ends_at(self, ends: float, name: tuple[bytes, bytes]) -> bool:
        # another block of this key may have come since
        entry = self.entries(name[0]).get(name[1])
        return entry is not None and entry.ends == ends

    def _stays(self, entry: DiskEntry) -> int:
        """What a block that is there takes of the room that others cannot have now."""
        return room(entry.nbytes) if entry.durable or entry.key in self._leased[entry.namespace] else 0

    def _came(self, entry: DiskEntry) -> None:
        self.ledger.came(entry.namespace, entry.nbytes, durable=entry.durable)

    def _gone(self, entry: DiskEntry, why: str, reason: str = "") -> None:
        self.used -= room(entry.nbytes)
        self.ledger.went(entry.namespace, entry.nbytes, why, durable=entry.durable, reason=reason)

    def _put(self, entry: DiskEntry) -> None:
        held = self._namespaces.get(entry.namespace)
        if held is None:
            held = _Namespace(self.eviction.start(), self._leased[entry.namespace])
            self._namespaces[entry.namespace] = held
        # two keys that begin alike are no accident, but neither may be lost to the order
        entry.name = entry.short if entry.short not in held.names else entry.key
        held.entries[entry.key] = held.names[entry.name] = entry
        held.order.insert(entry.name, entry.nbytes, entry.parent)
        held.used += room(entry.nbytes)
        self._staying += self._stays(entry)
        if entry.ends != math.inf:
            self._ending.add(entry.ends, (entry.namespace, entry.key))

    def _take(self, entry: DiskEntry) -> None:
        held = self._namespaces[entry.namespace]
        del held.entries[entry.key], held.names[entry.name]
        held.order.remove(entry.name)
        held.used -= room(entry.nbytes)
        self._staying -= self._stays(entry)
        if not held.entries:
            del self._namespaces[entry.namespace]
