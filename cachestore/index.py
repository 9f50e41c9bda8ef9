"""Which blocks this node has in memory, who uses them, and in which order they should leave.

1. An entry is WRITING until it is published; nobody but its writer sees it.
2. An entry in use (leased, or being copied) keeps its slot. Removed meanwhile, it is out of sight at once and its slot
   goes back with the last use.
3. What is present in a cold tier is for that tier to say; the index does not repeat it.
4. Everything here happens under `changed`, which is notified whenever an entry is published or removed.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
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
    back when it has arrived.
    """

    name: Name
    fingerprint: bytes
    slot: Slot
    parent: bytes | None = None
    ready: bool = False
    gone: bool = False
    withdrawn: bool = False
    users: int = 0
    ends: float = math.inf
    cold: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Index:
    """The entries of one store. `take_back` gives a slot back to its tier."""

    eviction: Eviction
    take_back: Callable[[Slot], None]
    changed: Condition = field(default_factory=lambda: Condition(RLock()))
    _entries: dict[Name, Entry] = field(default_factory=dict)
    _orders: dict[bytes, Order] = field(init=False)

    def __post_init__(self) -> None:
        self._orders = defaultdict(self.eviction.start)

    def get(self, name: Name) -> Entry | None:
        """The entry of this name, being written or ready."""
        return self._entries.get(name)

    def reserve(self, name: Name, fingerprint: bytes, slot: Slot, parent: bytes | None = None) -> Entry:
        """A new entry that is being written into `slot`; `parent` is the key before it, if known."""
        assert name not in self._entries
        entry = Entry(name, fingerprint, slot, parent)
        self._entries[name] = entry
        return entry

    def publish(self, entry: Entry) -> None:
        """Makes a written entry visible."""
        assert not entry.ready and not entry.gone
        entry.ready = True
        self._ordered(entry)
        self.changed.notify_all()

    def remove(self, entry: Entry) -> None:
        """Takes an entry out of sight, and its slot back once nobody uses it."""
        if entry.gone:
            return
        entry.gone = True
        del self._entries[entry.name]
        self._orders[entry.name.namespace].remove(entry.name.key)
        if not entry.users:
            self.take_back(entry.slot)
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
            self.take_back(entry.slot)

    def writing(self, namespace: bytes, key: bytes) -> bool:
        """Whether somebody has this block open."""
        entry = self._entries.get(Name(namespace, key))
        return entry is not None and not entry.ready

    def touch(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """The leading blocks of one chain were read."""
        self._orders[namespace].touch(keys)

    def evict(self, nbytes: int) -> list[Entry]:
        """Entries of `nbytes` in all that should leave, fewer if too few may; they are out of their order and in use.

        Each must be removed, or come back by `stay`.
        """
        chosen: list[Entry] = []
        spaces = [namespace for namespace, order in self._orders.items() if len(order)]
        while nbytes > 0 and spaces:
            namespace = spaces[0]
            entry = self._evicted(namespace)
            if entry is None:
                spaces.pop(0)
                continue
            self.use(entry)
            chosen.append(entry)
            nbytes -= entry.slot.nbytes
        return chosen

    def stay(self, entry: Entry) -> None:
        """An entry that was to leave is wanted after all."""
        self._ordered(entry)

    def _evicted(self, namespace: bytes) -> Entry | None:
        def entry_of(key: Hashable) -> Entry:
            return self._entries[Name(namespace, cast(bytes, key))]

        key = self._orders[namespace].evict(lambda key: entry_of(key).users > 0)
        return None if key is None else entry_of(key)

    def _ordered(self, entry: Entry) -> None:
        self._orders[entry.name.namespace].insert(entry.name.key, entry.slot.nbytes, entry.parent)

    def entries(self, namespace: bytes) -> list[Entry]:
        """All ready entries of a namespace."""
        return [entry for entry in self._entries.values() if entry.ready and entry.name.namespace == namespace]
