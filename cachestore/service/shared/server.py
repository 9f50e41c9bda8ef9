"""Where clients of this node get at the store's memory: a private unix socket, and a thread for each that is attached.

A session does little for every read, since no payload passes through it. One that is idle costs a thread that waits;
one that stalls is cut off and holds nothing that others need.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock, Thread
from typing import NamedTuple

from google.protobuf.message import DecodeError

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument, Mismatch, Overloaded, PermissionDenied, Unauthenticated
from cachestore.metrics import Figure
from cachestore.service.auth import tokens
from cachestore.service.auth.identity import Identity, Role
from cachestore.service.auth.shares import SharedBudget, Shares, shares
from cachestore.service.budget import Budget
from cachestore.service.health.draining import Drain, draining
from cachestore.service.settings import ServiceSettings
from cachestore.service.shared.answers import failed, send_answer
from cachestore.service.shared.messages import STALL, Garbled, ended, receive, received, send
from cachestore.service.shared.place import SessionPlace, session_place
from cachestore.service.shared.session import Session
from cachestore.service.shared.slabs import SlabNumbers
from cachestore.service.tickets import TICKET_SECONDS, Tickets
from cachestore.store.tiered import TieredStore
from cachestore.wire import session_pb2 as wire

MOST_SESSIONS = 256
"""Sessions at once; who comes later uses another way."""

MOST_HELLO = 256
"""Bytes of the message that shows a ticket."""

LONGEST_SESSION = 600.0
"""Seconds after which a session without an open put ends: identities are taken away, tokens run out."""

BEGINNINGS = frozenset({"lookup", "read", "reserve", "register"})
"""Requests that begin something new."""

ENDINGS = frozenset({"commit", "abort"})
"""What a session answers whose time is over, while its client may be writing to memory of the store."""

log = logging.getLogger(__name__)


class Agreed(NamedTuple):
    """Who may begin a session, and whether to write."""

    identity: Identity
    writer: bool


@dataclass(eq=False)
class SessionServer:
    """The sessions of one store. `calls`, each caller's `share` of them and `bytes_in_flight` are those of gRPC too."""

    store: TieredStore
    settings: ServiceSettings
    calls: Budget
    share: Shares
    bytes_in_flight: SharedBudget
    drain: Drain
    tickets: Tickets[Agreed] = field(default_factory=Tickets)
    _numbers: SlabNumbers = field(default_factory=SlabNumbers)
    _listener: socket.socket | None = None
    _place: SessionPlace | None = None
    _connections: dict[socket.socket, Thread] = field(default_factory=dict)
    _sessions: set[Session] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)
    _seats: Shares = field(init=False)
    """What of the sessions one caller may hold."""

    def __post_init__(self) -> None:
        self._seats = shares(MOST_SESSIONS, len(self.settings.identities), "sessions")

    def open(self) -> None:
        """Listens, if it is to. Without a place for its socket there is no shared memory, and the log says so."""
        if not self.settings.shared:
            return
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._place = session_place()
            listener.bind(str(self._place.socket))
            os.chmod(self._place.socket, 0o600)
            listener.listen(MOST_SESSIONS)
        except OSError as error:
            log.warning("no shared memory: its socket cannot be made (%s)", error.strerror)
            listener.close()
            self.close()
            return
        self._listener = listener
        Thread(target=self._accept, args=(listener,), name="cachestore-sessions", daemon=True).start()

    def close(self) -> None:
        """Ends all sessions. Closing twice is allowed."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # closing alone would not wake the thread that waits there
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with suppress(OSError):
                # what is being answered still is
                connection.shutdown(socket.SHUT_RD)
        until = time.monotonic() + STALL
        for thread in connections.values():
            thread.join(max(0.0, until - time.monotonic()))
        place, self._place = self._place, None
        if place is not None:
            place.close()

    def lent(self) -> bool:
        """Whether a client may be writing to memory of the store: its put is open."""
        with self._lock:
            return any(session.lent for session in self._sessions)

    def figures(self) -> list[Figure]:
        """How many sessions there are, and the memory that the store gave up and idle clients keep until they call."""
        with self._lock:
            sessions = list(self._sessions)
        # the clients of a node that map the same slab keep the same memory
        kept = {number: nbytes for session in sessions for number, nbytes in session.slabs.untold().items()}
        return [
            Figure("sessions", (), len(sessions)),
            Figure("sessions_kept_bytes", (), sum(kept.values())),
        ]

    def attach(self, identity: Identity, writer: bool) -> tuple[str, bytes]:
        """Where to connect, and the ticket to show there."""
        place = self._place
        if self._listener is None or place is None:
            raise Mismatch("this store shares no memory: service.shared is off, or its socket could not be made")
        if writer and identity.role < Role.writer:
            raise PermissionDenied(f"writing needs the role writer, and {identity.name} is {identity.role.name}")
        if len(self._connections) >= MOST_SESSIONS:
            raise Overloaded(f"{MOST_SESSIONS} clients share memory already; use another way, or try again later")
        return str(place.socket), self.tickets.issue(Agreed(identity, writer))

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(TICKET_SECONDS)
        while True:
            # nobody need come for what was agreed on to be let go
            self.tickets.expire()
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if self._listener is not listener:
                    return
                log.warning("a session cannot begin (%s)", error.strerror)
                time.sleep(0.1)
                continue
            thread = Thread(target=self._serve, args=(connection,), name="cachestore-session", daemon=True)
            with self._lock:
                if self._listener is not listener or len(self._connections) >= MOST_SESSIONS:
                    connection.close()
                    continue
                try:
                    thread.start()
                except RuntimeError:
                    log.warning("a session cannot begin: this process may have no more threads")
                    connection.close()
                    continue
                self._connections[connection] = thread

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError, Garbled, DecodeError):
                hello = self._greeted(connection)
                agreed = self._agreed(connection, hello) if hello is not None else None
                if hello is not None and agreed is not None:
                    self._welcome(connection, agreed, hello.device)
        finally:
            with self._lock:
                self._connections.pop(connection, None)

    def _welcome(self, connection: socket.socket, agreed: Agreed, device: str) -> None:
        identity, store = agreed.identity, self.store.namespace(agreed.identity.namespace)
        with ExitStack() as held:
            try:
                held.enter_context(self._seats.hold(identity))
            except Overloaded as error:
                send(connection, failed(error).SerializeToString())
                return
            over = partial(self._over, connection)
            session = Session(store, identity, agreed.writer, self._numbers, over, device)
            held.enter_context(self._session(session))
            send_answer(connection, session, wire.SessionAnswer(welcome=wire.Welcome(namespace_id=store.namespace)))
            self._converse(connection, session, identity)

    @contextmanager
    def _session(self, session: Session) -> Iterator[Session]:
        with self._lock:
            self._sessions.add(session)
        try:
            yield session
        finally:
            session.close()
            with self._lock:
                self._sessions.discard(session)

    def _greeted(self, connection: socket.socket) -> wire.Hello | None:
        """What the client says first, if it says anything."""
        data = receive(connection, STALL, MOST_HELLO)
        return wire.SessionRequest.FromString(data).hello if data is not None else None

    def _agreed(self, connection: socket.socket, hello: wire.Hello) -> Agreed | None:
        """What the ticket says that the client shows; None, and the client is told, if it is none that holds."""
        agreed = self.tickets.redeem(hello.ticket)
        if agreed is None:
            failure = wire.Failure(
                reason=PermissionDenied.reason, text="the ticket is unknown, used or too old; call Attach for another"
            )
            send(connection, wire.SessionAnswer(failure=failure).SerializeToString())
        return agreed

    def _converse(self, connection: socket.socket, session: Session, identity: Identity) -> None:
        ends = time.monotonic() + min(LONGEST_SESSION, identity.expires - time.time())
        while True:
            # whoever may be writing to memory of ours is never sent away: that memory could not be used again
            wait = None if session.lent else max(ends - time.monotonic(), 1e-3)
            # only who registers pages has any to send: the kernel closes what others do
            came: list[int] | None = [] if session.writer and session.device else None
            try:
                with received(connection, wait, partial(self._admitted, identity), came) as data:
                    late = time.monotonic() >= ends
                    if data is None or (late and not session.lent):
                        return
                    answer = self._answered(session, data, came or (), late=late)
            except Overloaded as error:
                answer = failed(error)
            finally:
                for descriptor in came or ():
                    os.close(descriptor)
            send_answer(connection, session, answer)

    def _over(self, connection: socket.socket) -> bool:
        """Whether the server is about to end, or the client has gone."""
        return self.drain.begun or ended(connection)

    @contextmanager
    def _admitted(self, identity: Identity, nbytes: int) -> Iterator[None]:
        """A request of so many bytes, from when it begins to come until it is answered."""
        with self.share.hold(identity), self.bytes_in_flight.hold(identity, nbytes):
            yield

    def _answered(self, session: Session, data: bytes, descriptors: Sequence[int], *, late: bool) -> wire.SessionAnswer:
        try:
            with self.calls.hold(1):
                return self._answer(session, data, descriptors, late=late)
        except Exception as error:
            return failed(error)

    def _answer(self, session: Session, data: bytes, descriptors: Sequence[int], *, late: bool) -> wire.SessionAnswer:
        try:
            request = wire.SessionRequest.FromString(data)
        except DecodeError:
            raise InvalidArgument("the request's bytes are no message of a session") from None
        kind, longest = request.WhichOneof("message"), self.settings.longest_call
        if late and kind not in ENDINGS:
            raise PermissionDenied("the session's time is over: commit or abort its put, then attach again")
        if kind in BEGINNINGS:
            if self.drain.begun:
                raise draining()
            # a put that is reserved keeps this bound: its commits need none of their own
            longest = min(longest, session.identity.expires + tokens.SKEW - time.time())
            if longest <= 0:
                raise Unauthenticated("what the caller showed expired; show another token, and attach again")
        seconds = min(request.timeout_ms / 1000, longest) if request.timeout_ms else longest
        return session.answer(request, Deadline.after(seconds), descriptors)
