"""The one session of a worker that has to do with pages: begun when it is needed, and anew when it is over."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock

from cachestore.deadline import Deadline
from cachestore.errors import DeadlineExceeded, Unavailable
from cachestore.service.connection import Connection
from cachestore.service.pages.session import PageSession
from cachestore.service.shared.client import Lost
from cachestore.service.shared.sessions import alive
from cachestore.tiers.gpu_memory import DeviceMemory
from cachestore.wire import session_pb2, store_pb2


@dataclass(eq=False)
class Attached:
    """At most one session with the store behind `connection`, with one request at a time. Thread-safe."""

    connection: Connection
    memory: DeviceMemory
    writer: bool
    _session: PageSession | None = None
    _lock: Lock = field(default_factory=Lock)

    def session(self, deadline: Deadline) -> PageSession:
        """The session as it is, or a new one. Raises what the store answers instead, Unavailable if it is elsewhere."""
        with self._held(deadline):
            if self._session is None or not self._session.usable:
                self._end()
                self._session = self._begun(deadline)
            return self._session

    def ask(
        self,
        session: PageSession,
        request: session_pb2.SessionRequest,
        deadline: Deadline,
        descriptors: Sequence[int] = (),
    ) -> session_pb2.SessionAnswer:
        """What the store answers in this session; Lost if it is over."""
        with self._held(deadline):
            return session.ask(request, max(deadline.remaining(), 1e-3), descriptors)

    def close(self) -> None:
        """Ends the session. Closing twice is allowed."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _begun(self, deadline: Deadline) -> PageSession:
        offer = self.connection.call("Attach", store_pb2.AttachRequest(writer=self.writer), deadline.remaining())
        session = PageSession(offer.socket, self.memory, partial(alive, self.connection))
        try:
            session.open(offer.ticket, max(deadline.remaining(), 1e-3), self.memory.name)
        except Lost:
            raise Unavailable(f"the store at {self.connection.address} shares no memory with this process") from None
        return session

    @contextmanager
    def _held(self, deadline: Deadline) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline.remaining()):
            raise DeadlineExceeded("other requests of this session took all the time there was")
        try:
            yield
        finally:
            self._lock.release()
