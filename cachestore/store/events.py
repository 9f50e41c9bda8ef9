"""What appears and disappears in a namespace, tier by tier, for whoever follows it.

1. Of a namespace that nobody follows, or has followed lately, nothing is kept: saying something of it is one look into
   a dict.
2. Whoever says something waits for nobody. A follower has a place in a log that is bounded; behind its beginning there
   is a snapshot for it.
3. What is said of a lower tier is what it has by then, not what a call was to do with it: however two changes overtake
   each other, the last word is true. A medium that evicts unseen is taken at its word; what it drops, nobody is told.
4. Events and snapshots are made under the index's lock, so that a follower can go on from one to the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from threading import Condition, Lock
from typing import TYPE_CHECKING, NamedTuple

from cachestore.deadline import Deadline
from cachestore.index import Entry
from cachestore.tiers.base import ColdTier, Departure, Listing

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore

LOG_KEYS = 1 << 15
"""Keys of one namespace's last events that are kept: by so many a follower may be behind."""

EVENT_KEYS = 1 << 10
"""Keys in one event."""

KEPT_SECONDS = 120.0
"""For how long a namespace's events are kept when nobody follows it any more."""

LOOK_SECONDS = 10.0
"""The deadline of a look into a tier that knows in memory what it has."""


class Change(StrEnum):
    """What became of some blocks in a tier."""

    STORED = "stored"
    REMOVED = "removed"
    CLEARED = "cleared"


class Event(NamedTuple):
    """Blocks of one tier. The fingerprint is empty where the tier does not tell it.

    CLEARED names no keys: nothing is left in the tier.
    """

    change: Change
    tier: str
    fingerprint: bytes
    keys: tuple[bytes, ...]


class Content(NamedTuple):
    """The blocks of one spec (empty: the tier does not tell it) that a tier has."""

    tier: str
    fingerprint: bytes
    keys: Sequence[bytes]


@dataclass(eq=False)
class Log:
    """The last events of a namespace. Every event has a number, `last` is the latest's."""

    most: int
    last: int = 0
    followed: float = field(default_factory=time.monotonic)
    """When somebody last asked for it."""
    _events: deque[Event] = field(default_factory=deque)
    _keys: int = 0
    _waiting: int = 0
    _grown: Condition = field(default_factory=lambda: Condition(Lock()))

    def add(self, event: Event) -> None:
        """Says that something happened."""
        with self._grown:
            self._events.append(event)
            self.last += 1
            self._keys += len(event.keys) + 1
            while self._keys > self.most:
                self._keys -= len(self._events.popleft().keys) + 1
            if self._waiting:
                self._grown.notify_all()

    def after(self, number: int) -> list[Event] | None:
        """The events behind this one, in order; None if some of them are not kept any more."""
        with self._grown:
            behind = self.last - number
            if not 0 <= behind <= len(self._events):
                return None
            events = list(islice(reversed(self._events), behind))
        events.reverse()
        return events

    def wait(self, number: int, timeout: float, over: Callable[[], bool]) -> None:
        """Waits until there are events behind this one, or it is `over` and somebody calls `wake`."""
        with self._grown:
            if self.last == number and not over():
                self._waiting += 1
                self._grown.wait(timeout)
                self._waiting -= 1

    def wake(self) -> None:
        """Ends all waiting."""
        with self._grown:
            self._grown.notify_all()


@dataclass(eq=False)
class Events:
    """Takes what the parts of one store have to say, and keeps it for followers."""

    tiered: TieredStore
    log_keys: int = LOG_KEYS
    kept: float = KEPT_SECONDS
    _logs: dict[bytes, Log] = field(default_factory=dict)
    _next: int = 0
    """Where a new log begins: behind all that were given up. Who knows one of those must not find its place here."""
    _tidied: float = 0.0

    @property
    def epoch(self) -> int:
        """Names this life of the store; never zero."""
        return int.from_bytes(self.tiered.incarnation[:8], "little") or 1

    def log(self, namespace: bytes) -> Log:
        """The log of a namespace, kept from when somebody asks for it until `kept` seconds after the last time."""
        with self.tiered.index.changed:
            self._tidy()
            log = self._logs.get(namespace)
            if log is None:
                log = self._logs[namespace] = Log(self.log_keys, self._next)
            log.followed = time.monotonic()
            return log

    def __len__(self) -> int:
        """Of how many namespaces events are kept."""
        return len(self._logs)

    def stored(self, namespace: bytes, fingerprint: bytes, keys: Sequence[bytes]) -> None:
        """Blocks of one spec came into memory. Under the lock."""
        log = self._logs.get(namespace)
        if log is not None:
            for event in _events(Change.STORED, Content(self.tiered.memory.name, fingerprint, keys)):
                log.add(event)
            self._tidy()

    def removed(self, entry: Entry) -> None:
        """A block left memory. Under the lock."""
        log = self._logs.get(entry.name.namespace)
        if log is not None:
            log.add(Event(Change.REMOVED, self.tiered.memory.name, entry.fingerprint, (entry.name.key,)))
            self._tidy()

    def changed(self, tier: ColdTier, namespace: bytes, keys: Sequence[bytes], *, there: bool) -> None:
        """Something happened to these blocks in a lower tier; `there` is what it answered."""
        log = self._logs.get(namespace)
        if log is None or not keys:
            return
        with self.tiered.index.changed:
            present = [there] * len(keys)
            if tier.ledger is not None:
                present = tier.present(namespace, keys, Deadline.after(LOOK_SECONDS))
            for change, what in ((Change.STORED, True), (Change.REMOVED, False)):
                said = [key for key, is_there in zip(keys, present, strict=True) if is_there is what]
                for event in _events(change, Content(tier.name, b"", said)):
                    log.add(event)

    def departed(self, name: str, departures: Sequence[Departure]) -> None:
        """The lower tier of this name let blocks go by itself, perhaps to the one below it."""
        lower = self.tiered.lower
        at = next(at for at, tier in enumerate(lower) if tier.name == name)
        for namespace in {departure.namespace for departure in departures}:
            if namespace not in self._logs:
                continue
            gone = [departure for departure in departures if departure.namespace == namespace]
            self.changed(lower[at], namespace, [departure.key for departure in gone], there=False)
            demoted = [departure.key for departure in gone if departure.why == "demoted"]
            for below in lower[at + 1 : at + 2]:
                self.changed(below, namespace, demoted, there=True)

    def cleared(self, tier: ColdTier, namespace: bytes) -> None:
        """A lower tier was emptied; what has come since is said again."""
        log = self._logs.get(namespace)
        if log is None:
            return
        with self.tiered.index.changed:
            log.add(Event(Change.CLEARED, tier.name, b"", ()))
            for event in _events(Change.STORED, self._content(tier, namespace)):
                log.add(event)

    def snapshot(self, namespace: bytes) -> tuple[int, list[Content]]:
        """What is there now, and the number of the last event before."""
        with self.tiered.index.changed:
            return self.log(namespace).last, self._contents(namespace)

    def _tidy(self) -> None:
        """Gives up the logs that nobody follows, which is looked for now and then. Under the lock."""
        now = time.monotonic()
        if now - self._tidied < self.kept / 4:
            return
        self._tidied = now
        for namespace, log in list(self._logs.items()):
            if now - log.followed > self.kept:
                self._next = max(self._next, log.last + 1)
                del self._logs[namespace]

    def _contents(self, namespace: bytes) -> list[Content]:
        index, memory = self.tiered.index, self.tiered.memory.name
        found = [Content(memory, fingerprint, keys) for fingerprint, keys in index.published(namespace).items()]
        return found + [self._content(tier, namespace) for tier in self.tiered.lower]

    def _content(self, tier: ColdTier, namespace: bytes) -> Content:
        if tier.ledger is not None and isinstance(tier, Listing):
            return Content(tier.name, b"", tier.keys(namespace))
        # of a medium that evicts unseen: what it acknowledged of the blocks in memory
        entries = self.tiered.index.entries(namespace)
        return Content(tier.name, b"", [entry.name.key for entry in entries if tier.name in entry.cold])


def _events(change: Change, content: Content) -> Iterator[Event]:
    for start in range(0, len(content.keys), EVENT_KEYS):
        keys = tuple(content.keys[start : start + EVENT_KEYS])
        yield Event(change, content.tier, content.fingerprint, keys)
