"""Which session a request about pages goes over: the one of their owner, or one of as many as a reader needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Protocol
from weakref import WeakValueDictionary

from cachestore.deadline import Deadline
from cachestore.errors import Unavailable
from cachestore.service.connection import Connection
from cachestore.service.pages.session import PageSession
from cachestore.service.shared.client import Lost
from cachestore.service.shared.sessions import MOST_IDLE, alive
from cachestore.tiers.gpu_memory import DeviceMemory
from cachestore.tiers.gpu_sharing import AttachedSlab
from cachestore.wire import session_pb2, store_pb2

Known = WeakValueDictionary[int, AttachedSlab]
"""Slabs that this process has open, by the store's numbers."""
KnownAt = Callable[[str], Known]
"""Those of the store whose socket this is."""


class Sessions(Protocol):
    """Sessions with the store behind `connection`, of a process that can open `memory`."""

    @property
    def connection(self) -> Connection: ...
    @property
    def memory(self) -> DeviceMemory: ...

    def take(self, deadline: Deadline) -> PageSession:
        """A session, until it is given back. Raises what the store answers instead, Unavailable if it is elsewhere."""

    def give(self, session: PageSession) -> None:
        """It is needed no longer by whoever took it."""

    def ask(
        self,
        session: PageSession,
        request: session_pb2.SessionRequest,
        deadline: Deadline,
        descriptors: Sequence[int] = (),
    ) -> session_pb2.SessionAnswer:
        """What the store answers in a session that was taken; Lost if it is over."""

    def close(self) -> None:
        """Ends those that are not taken. Closing twice is allowed."""


@dataclass(eq=False)
class LentSessions:
    """As many sessions as there are reads at a time, since one that waits for blocks keeps its own busy; thread-safe.

    A slab is opened once for all of them.
    """

    connection: Connection
    memory: DeviceMemory
    _idle: list[PageSession] = field(default_factory=list)
    _path: str = ""
    _known: Known = field(default_factory=WeakValueDictionary)
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def take(self, deadline: Deadline) -> PageSession:
        while True:
            with self._lock:
                session = self._idle.pop() if self._idle else None
            if session is None:
                return begun(self.connection, self.memory, False, deadline, self._known_at)
            if session.usable:
                return session
            session.close()

    def give(self, session: PageSession) -> None:
        alive, session.alive = session.alive, None
        with self._lock:
            idle, over = [*self._idle, session], list[PageSession]()
            self._idle = []
            for one in idle:
                kept = not self._closed and len(self._idle) < MOST_IDLE and one.usable
                (self._idle if kept else over).append(one)
                if alive is not None:
                    # it may be long until somebody uses the others: they must not keep the memory of an owner that died
                    one.forget_all_but(alive)
        for one in over:
            one.close()

    def ask(
        self,
        session: PageSession,
        request: session_pb2.SessionRequest,
        deadline: Deadline,
        descriptors: Sequence[int] = (),
    ) -> session_pb2.SessionAnswer:
        return session.ask(request, max(deadline.remaining(), 1e-3), descriptors)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.close()

    def _known_at(self, path: str) -> Known:
        with self._lock:
            if path != self._path:
                # another server: its numbers are others
                self._path, self._known = path, WeakValueDictionary()
            return self._known


def begun(
    connection: Connection, memory: DeviceMemory, writer: bool, deadline: Deadline, known: KnownAt
) -> PageSession:
    """A new session, which opens slabs that are not `known` yet.

    Raises what the store answers instead, Unavailable if it is elsewhere.
    """
    offer = connection.call("Attach", store_pb2.AttachRequest(writer=writer), deadline.remaining())
    session = PageSession(offer.socket, memory, partial(alive, connection), known(offer.socket))
    try:
        session.open(offer.ticket, max(deadline.remaining(), 1e-3), memory.name)
    except Lost:
        raise Unavailable(f"the store at {connection.address} shares no memory with this process") from None
    return session
