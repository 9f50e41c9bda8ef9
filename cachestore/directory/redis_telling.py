"""Tells the directory what changed, and now and then all that a node holds."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from cachestore.deadline import Deadline
from cachestore.directory.base import Held
from cachestore.directory.redis_changes import Change, Outcome, apply
from cachestore.directory.redis_entries import entry_name
from cachestore.directory.redis_pending import Pending
from cachestore.metrics import Counters
from cachestore.tiers.redis_servers import Servers

if TYPE_CHECKING:
    from cachestore.directory.redis import Redis

BATCH = 1000
"""Changes that are told together."""

COMMANDS = 4
"""A change takes so many commands at most."""

LONGEST_PAUSE = 1.0
"""Seconds between two steps that count for the rate."""


@dataclass(eq=False)
class Telling:
    """What waits to be told, and the way to tell it. `tell` and `remove` are for any thread, the others for one."""

    servers: Servers
    clustered: bool
    settings: "Redis"
    counters: Counters
    pending: Pending = field(init=False)
    _held: Held = ()
    _rest: Iterator[tuple[bytes, bytes]] | None = None
    """What of all that the node holds is still to be said."""
    _all_at: float = math.inf
    """When it says all again."""
    _said_at: float = 0.0
    _no_room: bool = False
    """Whether a server took no change of an entry lately; it needs memory even to take somebody out."""

    def __post_init__(self) -> None:
        self.pending = Pending(self.settings.backlog)

    @property
    def busy(self) -> bool:
        """Whether there is more to tell, and somebody who would take it."""
        return self._rest is not None or (len(self.pending) > 0 and not self._no_room)

    def begin(self, held: Held) -> None:
        """The node holds this, and says all of it."""
        self._held = held
        self.say_all()

    def say_all(self) -> None:
        """All that the node holds is to be said, from the beginning."""
        self._rest, self._all_at = None, -math.inf

    def end(self) -> None:
        """The node says nothing any more."""
        self._held, self._rest, self._all_at = (), None, math.inf
        self.pending.clear()

    def tell(self, names: Sequence[bytes], there: bool) -> None:
        """The node holds these blocks now, or no longer."""
        dropped = self.pending.tell(names, there)
        if dropped:
            self.counters.add("directory_dropped", dropped)
            if there:
                self._all_at = -math.inf

    def remove(self, gone: Mapping[bytes, Iterable[bytes]]) -> None:
        """Who does not hold which blocks. What there is no room for is found again by whoever comes across it."""
        dropped = sum(not self.pending.remove(name, incarnations) for name, incarnations in gone.items())
        if dropped:
            self.counters.add("directory_unremoved", dropped)

    def go_on(self, own: bytes | None, until: float) -> None:
        """Tells what waits, for about as long; `own` is this node's incarnation, None while it may say nothing."""
        self._no_room = False
        if own is not None:
            self._repeat()
        while changes := self.pending.take(BATCH, own):
            names = list(changes)
            soon = self.servers.soon(COMMANDS * len(names), Deadline(math.inf))
            outcomes = self.servers.each(names, soon, Outcome.AGAIN, apply, changes, self.clustered)
            again = {
                name: changes[name] for name, outcome in zip(names, outcomes, strict=True) if outcome is Outcome.AGAIN
            }
            # who is in an entry by mistake stays there for whoever looks, until it is told
            refused = {
                name: Change(None, changes[name].remove)
                for name, outcome in zip(names, outcomes, strict=True)
                if outcome is Outcome.REFUSED and changes[name].remove
            }
            self.pending.put_back({**again, **refused}, own)
            self._no_room |= bool(refused)
            self._count(changes, outcomes, own)
            if again or refused or time.monotonic() > until:
                break

    def _repeat(self) -> None:
        """Lets the next blocks of all that the node holds wait to be told, as many as the rate allows."""
        now = time.monotonic()
        if self._rest is None and now >= self._all_at:
            self._rest, self._all_at, self._said_at = iter(tuple(self._held)), now + self.settings.refresh, now
            self.counters.add("directory_rounds")
        if self._rest is None:
            return
        # a pause is not made up for at once
        passed = min(LONGEST_PAUSE, now - self._said_at)
        most = min(math.ceil(self.settings.rate * passed), self.pending.room)
        self._said_at = now
        some = list(islice(self._rest, most))
        # one that left since the round began was withdrawn, before this or after it
        self.pending.repeat([entry_name(*name) for name in some if name in self._held])
        if len(some) < most:
            self._rest = None

    def _count(self, changes: Mapping[bytes, Change], outcomes: Sequence[Outcome], own: bytes | None) -> None:
        happened = Counter[str]()
        for change, outcome in zip(changes.values(), outcomes, strict=True):
            if outcome is Outcome.REFUSED and change.add is None:
                continue
            if outcome is not Outcome.DONE:
                happened[outcome.value] += 1
            elif change.add is not None:
                happened["announced"] += 1
            else:
                happened["withdrawn" if own in change.remove else "removed"] += 1
        for what, count in happened.items():
            if what not in (Outcome.AGAIN.value, Outcome.NEEDLESS.value):
                self.counters.add(f"directory_{what}", count)
