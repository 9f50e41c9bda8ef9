"""The sessions of one client: as many as its threads need at once, kept for the next request."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from weakref import WeakValueDictionary

from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError, DeadlineExceeded, Unavailable
from cachestore.service.connection import Connection
from cachestore.service.shared.client import ALIVE_SECONDS, Lost, SharedSession
from cachestore.service.shared.mapped import Mapped
from cachestore.wire import store_pb2 as wire

MOST_IDLE = 16
"""Sessions kept while nobody uses them."""

ATTACH_SECONDS = 1.0
"""What asking for a session may take: another way may be open."""

PAUSE = 5.0
"""Seconds for which a store that cannot be reached this way is not asked again: it may be on another node."""

SHORT_PAUSE = 0.25
"""The same when it did not answer at all: it may be restarting."""


def alive(connection: Connection) -> bool:
    """Whether the store behind `connection` answers within `ALIVE_SECONDS`."""
    try:
        connection.call("Attach", wire.AttachRequest(), ALIVE_SECONDS)
    except (Unavailable, DeadlineExceeded):
        return False
    except CacheStoreError:
        return True
    return True


@dataclass(eq=False)
class SharedSessions:
    """Sessions with the store behind `connection`, for reading or for writing."""

    connection: Connection
    _idle: dict[bool, list[SharedSession]] = field(default_factory=lambda: {False: [], True: []})
    _path: str = ""
    _known: "WeakValueDictionary[int, Mapped]" = field(default_factory=WeakValueDictionary)
    _not_before: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def take(self, deadline: Deadline, *, writer: bool = False) -> SharedSession | None:
        """A session that nobody else uses until it is given back; None if there can be none now."""
        while True:
            with self._lock:
                # the last one given back is the one that caches still know
                session = self._idle[writer].pop() if self._idle[writer] else None
            if session is None:
                return self._attached(deadline, writer)
            if session.usable:
                return session
            session.close()

    def give(self, session: SharedSession, *, writer: bool = False) -> None:
        """Takes back a session; one that is lost is forgotten."""
        with self._lock:
            if not (session.lost or self._closed) and len(self._idle[writer]) < MOST_IDLE:
                self._idle[writer].append(session)
                return
        session.close()

    @contextmanager
    def lent(self, deadline: Deadline) -> Iterator[SharedSession | None]:
        """A session to read with, for as long as the context lasts; where it breaks in it, the context just ends."""
        session = self.take(deadline)
        try:
            yield session
        except Lost:
            # no rush: whatever ended it may go on
            self._not_before[False] = time.monotonic() + SHORT_PAUSE
        finally:
            if session is not None:
                self.give(session)

    def close(self) -> None:
        """Ends the sessions that nobody uses; the others end when they are given back, until a new one is begun.

        Closing twice is allowed.
        """
        with self._lock:
            self._closed = True
            idle = [*self._idle[False], *self._idle[True]]
            self._idle = {False: [], True: []}
        for session in idle:
            session.close()

    def _attached(self, deadline: Deadline, writer: bool) -> SharedSession | None:
        until = Deadline.after(min(ATTACH_SECONDS, deadline.remaining()))
        if not until.remaining() or time.monotonic() < self._not_before[writer]:
            return None
        try:
            offer = self.connection.call("Attach", wire.AttachRequest(writer=writer), until.remaining())
            session = SharedSession(offer.socket, self._slabs_of(offer.socket), partial(alive, self.connection))
            session.open(offer.ticket, until.remaining())
            self._closed = False
            return session
        except (Unavailable, DeadlineExceeded):
            self._not_before[writer] = time.monotonic() + SHORT_PAUSE
        except (CacheStoreError, Lost):
            self._not_before[writer] = time.monotonic() + PAUSE
        return None

    def _slabs_of(self, path: str) -> "WeakValueDictionary[int, Mapped]":
        with self._lock:
            if path != self._path:
                # another server: its numbers are others
                self._path, self._known = path, WeakValueDictionary()
            return self._known
