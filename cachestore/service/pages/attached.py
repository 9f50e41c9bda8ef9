"""The one session of a worker that owns pages: begun when it is needed, and anew when it is over."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakValueDictionary

from cachestore.deadline import Deadline, held_until
from cachestore.errors import DeadlineExceeded
from cachestore.service.connection import Connection
from cachestore.service.pages.session import PageSession
from cachestore.service.pages.sessions import begun
from cachestore.tiers.gpu_memory import DeviceMemory
from cachestore.wire import session_pb2


@dataclass(eq=False)
class Attached:
    """Follows `cachestore.service.pages.sessions.Sessions`: with one for all, which takes a request at a time.

    So the store knows who registered a page, and does not show it to them.
    """

    connection: Connection
    memory: DeviceMemory
    _session: PageSession | None = None
    _lock: Lock = field(default_factory=Lock)

    def take(self, deadline: Deadline) -> PageSession:
        """The session as it is, or a new one; it stays others' too."""
        with in_turn(self._lock, deadline):
            if self._session is None or not self._session.usable:
                self._end()
                self._session = begun(self.connection, self.memory, True, deadline, lambda path: WeakValueDictionary())
            return self._session

    def give(self, session: PageSession) -> None:
        """Nothing: it stays as it is."""

    def ask(
        self,
        session: PageSession,
        request: session_pb2.SessionRequest,
        deadline: Deadline,
        descriptors: Sequence[int] = (),
    ) -> session_pb2.SessionAnswer:
        """What the store answers in this session; Lost if it is over."""
        with in_turn(self._lock, deadline):
            return session.ask(request, max(deadline.remaining(), 1e-3), descriptors)

    def close(self) -> None:
        """Ends the session. Closing twice is allowed."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()


@contextmanager
def in_turn(lock: Lock, deadline: Deadline) -> Iterator[None]:
    """Holds `lock` inside the context; DeadlineExceeded if others keep it for too long."""
    with held_until(lock, deadline) as held:
        if not held:
            raise DeadlineExceeded("other requests of this session took all the time there was")
        yield
