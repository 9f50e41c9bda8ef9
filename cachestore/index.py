"""Which blocks this node has in memory, who uses them, and in which order they should leave.

1. An entry is WRITING until it is published; nobody but its writer sees it.
2. An entry in use (leased, or being copied) keeps its slot. Removed meanwhile, it is out of sight at once and its
   slot goes back with the last use.
3. What is present in a cold tier is for that tier to say; the index does not repeat it.
4. Memory is shared fairly: whoever is over its quota gives first, then whoever holds most.
5. Everything here happens under `changed`, which is notified whenever an entry is published or removed.
"""

import heapq
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, RLock
from typing import NamedTuple, cast

from cachestore.eviction.base import Eviction, Order
from cachestore.tiers.slab import Slot


class Name(NamedTuple):
    """A block's name on this node."""

    namespace: bytes
    key: bytes


@dataclass(eq=False, slots=True)
class Entry:
    """One block in memory. `cold` names the tiers that acknowledged a copy; they may have dropped it since.

    It leaves at `ends`, in monotonic seconds. `withdrawn` means that copies must go: one that is under way is taken
    back when it has arrived; `copies` counts these. `durable` means that a tier keeps a copy for good. `charged` is
    what its namespace is held to have taken for it.
    """

    name: Name
    fingerprint: bytes
    slot: Slot
    parent: bytes | None = None
    ready: bool = False
    gone: bool = False
    withdrawn: bool = False
    durable: bool = False
    pinned: bool = False
    users: int = 0
    copies: int = 0
    charged: int = 0
    ends: float = math.inf
    cold: set[str] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Space:
    """The entries of one namespace, and the bytes of their slots. `ready` has the published ones by fingerprint."""

    order: Order
    entries: dict[bytes, Entry] = field(default_factory=dict)
    ready: dict[bytes, dict[bytes, Entry]] = field(default_factory=dict)
    nbytes: int = 0


def no_quota(namespace: bytes) -> float:
    """Every namespace may fill the memory."""
    return math.inf


@dataclass(eq=False)
class Index:
    """The entries of one store. `take_back` gives a slot back to its tier; `quota` is a namespace's, in bytes."""

    eviction: Eviction
    take_back: Callable[[Slot], None]
    quota: Callable[[bytes], float] = no_quota
    changed: Condition = field(default_factory=lambda: Condition(RLock()))
    _spaces: dict[bytes, Space] = field(default_factory=dict)

    def get(self, name: Name) -> Entry | None:
        """The entry of this name, being written or ready."""
        space = self._spaces.get(name.namespace)
        return space.entries.get(name.key) if space is not None else None

    def all_of(self, namespace: bytes) -> Mapping[bytes, Entry]:
        """All entries of a namespace by key, being written or ready."""
        space = self._spaces.get(namespace)
        return space.entries if space is not None else {}

    def ready(self, namespace: bytes, fingerprint: bytes) -> Mapping[bytes, Entry]:
        """The published entries of one spec in a namespace, by key."""
        space = self._spaces.get(namespace)
        return space.ready.get(fingerprint, {}) if space is not None else {}

    def reserve(self, name: Name, fingerprint: bytes, slot: Slot, parent: bytes | None = None) -> Entry:
        """A new entry that is being written into `slot`; `parent` is the key before it, if known."""
        space = self._spaces.get(name.namespace)
        if space is None:
            space = self._spaces[name.namespace] = Space(self.eviction.start())
        assert name.key not in space.entries
        entry = space.entries[name.key] = Entry(name, fingerprint, slot, parent)
        self._charge(space, entry, slot.nbytes)
        slot.key = name.key
        return entry

    def publish(self, entries: Sequence[Entry]) -> None:
        """Makes written entries visible. Their slots may be smaller by now than they were reserved."""
        for entry in entries:
            assert not entry.ready and not entry.gone
            entry.ready = True
            space = self._spaces[entry.name.namespace]
            space.ready.setdefault(entry.fingerprint, {})[entry.name.key] = entry
            self._charge(space, entry, entry.slot.nbytes)
            self._ordered(space, entry)
        self.changed.notify_all()

    def remove(self, entry: Entry) -> None:
        """Takes an entry out of sight, and its slot back once nobody uses it."""
        if entry.gone:
            return
        entry.gone = True
        space = self._spaces[entry.name.namespace]
        del space.entries[entry.name.key]
        if entry.ready:
            del space.ready[entry.fingerprint][entry.name.key]
            if not space.ready[entry.fingerprint]:
                del space.ready[entry.fingerprint]
        space.order.remove(entry.name.key)
        if not entry.users:
            self._taken_back(entry)
        self.changed.notify_all()

    def use(self, entry: Entry) -> None:
        """One more user: the slot stays."""
        assert not entry.gone or entry.users
        entry.users += 1

    def leave(self, entry: Entry) -> None:
        """One user less."""
        entry.users -= 1
        assert entry.users >= 0
        if entry.gone and not entry.users:
            self._taken_back(entry)

    def moved(self, entry: Entry, slot: Slot) -> None:
        """An entry that nobody uses has its bytes in another slot from now on; the old one goes back."""
        assert not entry.users and not entry.gone
        old, entry.slot = entry.slot, slot
        self.take_back(old)

    def writing(self, namespace: bytes, key: bytes) -> bool:
        """Whether somebody has this block open."""
        entry = self.get(Name(namespace, key))
        return entry is not None and not entry.ready

    def touch(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """The leading blocks of one chain were read."""
        space = self._spaces.get(namespace)
        if space is not None:
            space.order.touch(keys)

    def evict(self, nbytes: int, namespace: bytes) -> list[Entry]:
        """Entries of `nbytes` in all that should leave for a block of `namespace`, fewer if too few may.

        They are in use and out of their order: each must be removed, or come back by `stay`.
        """
        over = self.over_quota(namespace, nbytes)
        if over > 0:
            return self._evict_from([namespace], min(over, nbytes))
        return self._evict_from([name for name, space in self._spaces.items() if len(space.order)], nbytes)

    def stay(self, entry: Entry) -> None:
        """An entry that was to leave is wanted after all."""
        self._ordered(self._spaces[entry.name.namespace], entry)

    def over_quota(self, namespace: bytes, nbytes: int = 0) -> float:
        """By how many bytes `nbytes` more would put a namespace over its quota; not positive if they would not."""
        return self.held(namespace) + nbytes - self.quota(namespace)

    def held(self, namespace: bytes) -> int:
        """Bytes of all slots of a namespace, also of blocks being written."""
        space = self._spaces.get(namespace)
        return space.nbytes if space is not None else 0

    def entries(self, namespace: bytes) -> list[Entry]:
        """All ready entries of a namespace."""
        space = self._spaces.get(namespace)
        return [entry for entry in space.entries.values() if entry.ready] if space is not None else []

    def published(self, namespace: bytes) -> dict[bytes, list[bytes]]:
        """The keys of all ready entries of a namespace, by fingerprint."""
        space = self._spaces.get(namespace)
        return {fingerprint: list(entries) for fingerprint, entries in space.ready.items()} if space is not None else {}

    def namespaces(self) -> list[bytes]:
        """All namespaces that have entries."""
        return list(self._spaces)

    def count(self, namespace: bytes) -> int:
        """How many ready entries a namespace has."""
        space = self._spaces.get(namespace)
        return sum(map(len, space.ready.values())) if space is not None else 0

    def everything(self) -> list[Entry]:
        """All entries of all namespaces, being written or ready."""
        return [entry for space in self._spaces.values() for entry in space.entries.values()]

    def _evict_from(self, namespaces: Sequence[bytes], nbytes: float) -> list[Entry]:
        chosen: list[Entry] = []
        leaving = dict.fromkeys(namespaces, 0)
        heap = [self._rank(namespace, 0) for namespace in namespaces]
        heapq.heapify(heap)
        while nbytes > 0 and heap:
            namespace = heap[0][-1]
            entry = self._evict_one(namespace)
            if entry is None:
                heapq.heappop(heap)
                continue
            self.use(entry)
            chosen.append(entry)
            nbytes -= entry.slot.nbytes
            leaving[namespace] += entry.slot.nbytes
            heapq.heapreplace(heap, self._rank(namespace, leaving[namespace]))
        return chosen

    def _rank(self, namespace: bytes, leaving: int) -> tuple[bool, int, bytes]:
        """Who gives first: whoever is over its quota, then whoever holds most, not counting what already leaves."""
        held = self.held(namespace) - leaving
        return held <= self.quota(namespace), -held, namespace

    def _evict_one(self, namespace: bytes) -> Entry | None:
        space = self._spaces.get(namespace)
        if space is None:
            return None
        entries = cast(dict[Hashable, Entry], space.entries)
        key = space.order.evict(lambda key: entries[key].users > 0 or entries[key].pinned)
        return None if key is None else entries[key]

    def _ordered(self, space: Space, entry: Entry) -> None:
        space.order.insert(entry.name.key, entry.slot.nbytes, entry.parent)

    def _charge(self, space: Space, entry: Entry, nbytes: int) -> None:
        space.nbytes += nbytes - entry.charged
        entry.charged = nbytes

    def _taken_back(self, entry: Entry) -> None:
        namespace = entry.name.namespace
        space = self._spaces[namespace]
        self._charge(space, entry, 0)
        self.take_back(entry.slot)
        if not space.entries and not space.nbytes and not len(space.order):
            del self._spaces[namespace]
