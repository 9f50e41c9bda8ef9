"""Pins: a user's wish to keep a prefix in memory for a while. They are soft state and end with the store."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cachestore.index import Entry, Index, Name
from cachestore.store.base import Pin


class _Pinned(NamedTuple):
    entry: Entry
    ends: float


@dataclass(eq=False)
class Pins:
    """The pins of one store: no namespace pins more than `quota` bytes. Callers hold the index's lock."""

    index: Index
    quota: int
    _pins: dict[Name, _Pinned] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._pins)

    def entries(self) -> list[Entry]:
        """All that is pinned now."""
        self.expire()
        return [pin.entry for pin in self._pins.values()]

    def pin(self, entries: Sequence[Entry], ttl: float) -> int:
        """Pins these blocks of one namespace in order, as far as the quota goes; how many. A longer pin stays."""
        if not entries:
            return 0
        ends = time.monotonic() + ttl
        # once for all of them: it looks at every pin there is, under the lock that everybody waits for
        left = self.left(entries[0].name.namespace)
        for count, entry in enumerate(entries):
            before = self._pins.get(entry.name)
            if before is None and left < entry.slot.nbytes:
                return count
            left -= entry.slot.nbytes if before is None else 0
            self._pins[entry.name] = _Pinned(entry, max(ends, before.ends) if before is not None else ends)
            entry.pinned = True
        return len(entries)

    def unpin(self, namespace: bytes, keys: Sequence[bytes]) -> int:
        """Ends the pins of these blocks; how many there were."""
        pinned = [name for key in keys if (name := Name(namespace, key)) in self._pins]
        for name in pinned:
            self._end(name)
        return len(pinned)

    def left(self, namespace: bytes) -> int:
        """Bytes that the namespace may still pin."""
        self.expire()
        held = sum(pin.entry.slot.nbytes for name, pin in self._pins.items() if name.namespace == namespace)
        return max(0, self.quota - held)

    def of(self, namespace: bytes) -> list[Pin]:
        """The namespace's pins, by key."""
        self.expire()
        now = time.monotonic()
        return sorted(
            Pin(name.key, max(0.0, pin.ends - now), pin.entry.slot.nbytes)
            for name, pin in self._pins.items()
            if name.namespace == namespace
        )

    def expire(self) -> None:
        """Ends the pins whose time is over, or whose block was deleted."""
        now = time.monotonic()
        for name in [name for name, pin in self._pins.items() if pin.ends <= now or pin.entry.gone]:
            self._end(name)

    def _end(self, name: Name) -> None:
        self._pins.pop(name).entry.pinned = False
