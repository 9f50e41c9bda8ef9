"""Which blocks this node has in memory, who uses them, and in which order they should leave.

1. An entry is WRITING until it is published; nobody but its writer sees it.
2. An entry in use (leased, or being copied) keeps its slot. Removed meanwhile, it is out of sight at once and its slot
   goes back with the last use.
3. What is present in a cold tier is for that tier to say; the index does not repeat it.
4. Everything here happens under `changed`, which is notified whenever an entry is published or removed.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Condition, RLock
from typing import NamedTuple, cast

from cachestore.eviction.base import Order
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
    ready: bool = False
    gone: bool = False
    withdrawn: bool = False
    users: int = 0
    ends: float = math.inf
    cold: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Index:
    """The entries of one store. `take_back` gives a slot back to its tier."""

    order: Order
    take_back: Callable[[Slot], None]
    changed: Condition = field(default_factory=lambda: Condition(RLock()))
    _entries: dict[Name, Entry] = field(default_factory=dict)

    def get(self, name: Name) -> Entry | None:
        """The entry of this name, being written or ready."""
        return self._entries.get(name)

    def reserve(self, name: Name, fingerprint: bytes, slot: Slot) -> Entry:
        """A new entry that is being written into `slot`."""
        assert name not in self._entries
        entry = Entry(name, fingerprint, slot)
        self._entries[name] = entry
        return entry

    def publish(self, entry: Entry) -> None:
        """Makes a written entry visible."""
        assert not entry.ready and not entry.gone
        entry.ready = True
        self.order.insert(entry.name, entry.slot.nbytes)
        self.changed.notify_all()

    def remove(self, entry: Entry) -> None:
        """Takes an entry out of sight, and its slot back once nobody uses it."""
        if entry.gone:
            return
        entry.gone = True
        del self._entries[entry.name]
        self.order.remove(entry.name)
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

    def victims(self) -> Iterator[Entry]:
        """The entries that may leave, the one to leave first in front."""
        for name in self.order.victims():
            entry = self._entries[cast(Name, name)]
            if not entry.users:
                yield entry

    def entries(self, namespace: bytes) -> list[Entry]:
        """All ready entries of a namespace."""
        return [entry for entry in self._entries.values() if entry.ready and entry.name.namespace == namespace]
