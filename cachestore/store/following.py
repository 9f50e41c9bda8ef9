"""Somebody who follows what appears and disappears in a namespace."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from cachestore.store.events import Content, Event, Events

GATHER = 2e-3
"""Seconds for which a follower lets events gather, so that writers are not interrupted for each."""


class Snapshot(NamedTuple):
    """Everything that is there: what a follower knew before does not count any more."""

    contents: Sequence[Content]


def joined(events: Iterable[Event], most: int) -> Iterator[tuple[int, Event]]:
    """Neighbours that say the same of different blocks as one event of at most `most` keys; how many it stands for."""
    for (change, tier, fingerprint), group in groupby(events, lambda event: event[:3]):
        keys: list[bytes] = []
        count = 0
        for event in group:
            if count and len(keys) + len(event.keys) > most:
                yield count, Event(change, tier, fingerprint, tuple(keys))
                keys, count = [], 0
            keys += event.keys
            count += 1
        yield count, Event(change, tier, fingerprint, tuple(keys))


@dataclass(eq=False)
class Follower:
    """Has heard the events of `namespace` up to `sequence`, in the life of the store named `epoch`.

    From the epoch of another life, or from where the log does not reach, it begins with a snapshot.
    """

    events: Events
    namespace: bytes
    epoch: int = 0
    sequence: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        self._log = self.events.log(self.namespace)
        self._lost = self.epoch != self.events.epoch
        self.epoch = self.events.epoch

    def take(self, timeout: float) -> Snapshot | list[Event]:
        """What happened since the last call; nothing if that is so for `timeout` seconds, or if it was ended."""
        # another one by now, if it was not asked for in a long time: then there is a snapshot
        self._log = self.events.log(self.namespace)
        if not self._lost:
            if timeout:
                self._log.wait(self.sequence, timeout, lambda: self.over)
                time.sleep(0.0 if self.over else GATHER)
            events = self._log.after(self.sequence)
            if events is not None:
                self.sequence += len(events)
                return events
        self.sequence, contents = self.events.snapshot(self.namespace)
        self._lost = False
        return Snapshot(contents)

    def lose(self) -> None:
        """Forgets what was heard: the next `take` gives a snapshot."""
        self._lost = True

    def end(self) -> None:
        """Ends a `take` that waits."""
        self.over = True
        self._log.wake()
