"""The transport of one node: payload stays in the store's memory, and is copied once, by who reads or writes it."""

import time

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.service import convert_put
from cachestore.service.connection import Connection
from cachestore.service.convert_put import Reservation
from cachestore.service.shared.client import Lost
from cachestore.service.shared.sessions import SharedSessions
from cachestore.service.shared.sink import SharedSink
from cachestore.service.shared.source import SharedSource
from cachestore.service.transport import Asked
from cachestore.wire import session_pb2, store_pb2


class Shared:
    """The memory of the store behind `connection`, if it is on this node and lets us; follows `transport.Transport`."""

    name = "shared"

    def __init__(self, connection: Connection, frame_bytes: int) -> None:
        self._connection = connection
        self._sessions = SharedSessions(connection)

    def read(self, asked: Asked, deadline: Deadline) -> SharedSource | None:
        chain, _, request = asked
        first = chain.keys.index(request.resume.key) if request.HasField("resume") else 0
        asked_at = time.monotonic()
        with self._sessions.lent(deadline) as session:
            if session is None:
                return None
            answer = session.ask(session_pb2.SessionRequest(read=request), deadline.remaining())
            places = session.places(answer.places)
            return SharedSource(asked, session.namespace, answer.granted, asked_at, first, places, deadline)
        return None

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> SharedSink | None:
        if reservation.groups is not None:
            # memory is lent to one writer at a time
            return None
        request = session_pb2.SessionRequest(reserve=convert_put.reserve_message(reservation))
        session = self._sessions.take(deadline, writer=True)
        if session is None:
            return None
        try:
            answer = session.ask(request, deadline.remaining())
            try:
                address = self._connection.address
                return SharedSink(self._sessions, session, address, reservation, codec, answer, deadline)
            except BaseException:
                # by now the store has lent it memory for a put, which only the end of the session takes back
                session.close()
                raise
        except Lost:
            return None
        except BaseException:
            self._sessions.give(session, writer=True)
            raise

    def near(self, deadline: Deadline) -> bool:
        """Whether the store's memory can be read from here."""
        with self._sessions.lent(deadline) as session:
            return session is not None

    def lookup(self, request: store_pb2.LookupRequest, deadline: Deadline) -> store_pb2.LookupResponse | None:
        """The answer to a Lookup, in a tenth of what it takes over gRPC; None if this way is not open."""
        with self._sessions.lent(deadline) as session:
            if session is not None:
                return session.ask(session_pb2.SessionRequest(lookup=request), deadline.remaining()).lookup
        return None

    def release(self, request: store_pb2.ReleaseRequest, timeout: float) -> None:
        deadline = Deadline.after(timeout)
        with self._sessions.lent(deadline) as session:
            if session is not None:
                session.ask(session_pb2.SessionRequest(release=request), max(deadline.remaining(), 1e-3))
                return
        self._connection.call("Release", request, max(deadline.remaining(), 1e-3))

    def close(self) -> None:
        self._sessions.close()
