"""The client's connections to the bulk port of one store. What is whole after a transfer is kept for the next."""

import ssl
import time
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cachestore.deadline import Deadline
from cachestore.errors import ConfigError, TooLarge
from cachestore.service import convert_put
from cachestore.service.auth.credentials import host_of, stays_here
from cachestore.service.bulk.answers import answered
from cachestore.service.bulk.format import ANSWER, GO, MOST_MESSAGE, RELEASE, REQUEST, RESERVE, TICKET
from cachestore.service.bulk.line import Line, client_line
from cachestore.service.connection import Connection
from cachestore.service.resolving import Resolver
from cachestore.store.base import PutAnswer
from cachestore.wire import session_pb2
from cachestore.wire import store_pb2 as wire

STALL_SECONDS = 3.0
"""A store that moves nothing for so long is given up."""

CONNECT_SECONDS = 1.0

RESERVE_SECONDS = 2.0
"""What a reservation may take before it is made with a call: that finds out sooner whether the store still lives."""

SHUT_SECONDS = 10.0
"""How long this way is not tried again after no connection came about."""

MOST_KEPT = 16

MOST_MILLISECONDS = (1 << 32) - 1
"""The longest time that a request can name."""

KEPT_SECONDS = 30.0
"""How long a connection is kept: less than the store does."""


class _Kept(NamedTuple):
    until: float
    address: str
    line: Line


class Reserved(NamedTuple):
    """A put whose planes may go over a connection, and what became of each block when they were reserved."""

    address: str
    line: Line
    answers: Sequence[PutAnswer]


class Lines:
    """Connections for the bytes of the store behind `connection`. For many threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: list[_Kept] = []
        self._ending: dict[bytes, _Kept] = {}
        self._resolver = Resolver()
        # with what each was made: a ticket is good only beside the certificate that the channel has shown
        self._made_with: WeakKeyDictionary[Line, ssl.SSLContext | None] = WeakKeyDictionary()
        self._shut_until = 0.0
        self._offered = ""
        self._closed = False
        self._lock = Lock()

    @property
    def open(self) -> bool:
        """Whether this way may be tried; a ticket is not shown where others could see it."""
        address = self._connection.address
        safe = self._connection.credentials.tls or stays_here(address)
        return safe and not address.startswith("unix:") and time.monotonic() >= self._shut_until

    def begin(self, offer: wire.BulkOffer, deadline: Deadline) -> tuple[str, Line]:
        """Shows the offer's ticket; the address of the connection, and the connection. OSError if there is none."""
        address = self._offered = offer.address
        line = self._kept_one(address)
        if line is None:
            try:
                line = self._connected(address, deadline)
            except (OSError, ValueError, ConfigError) as error:
                self._shut_until = time.monotonic() + SHUT_SECONDS
                raise ConnectionError(f"no bulk connection to {address}") from error
        try:
            line.send(REQUEST.pack(TICKET, 0, offer.ticket), deadline)
        except OSError:
            line.close()
            raise
        return address, line

    def reserve(self, reservation: convert_put.Reservation, deadline: Deadline) -> Reserved | None:
        """Reserves a put on a connection that is kept, without a call; None if there is none, or it broke.

        What a store reserves on one that breaks it gives up with it. Raises what the store answers instead.
        """
        # of the store that was called last: a name may lead to several
        address = self._offered
        line = self._kept_one(address)
        if line is None:
            return None
        try:
            response = self._reserved(line, convert_put.reserve_message(reservation), deadline)
            return Reserved(address, line, convert_put.reserved(reservation, response))
        except OSError:
            line.close()
            return None
        except BaseException:
            line.close()
            raise

    def keep(self, address: str, line: Line) -> None:
        """Takes a connection back on which nothing is under way."""
        with self._lock:
            if not self._closed and len(self._kept) < MOST_KEPT:
                self._kept.append(_Kept(time.monotonic() + KEPT_SECONDS, address, line))
                return
        line.close()

    def rest(self, lease: bytes, address: str, line: Line) -> None:
        """Keeps the connection of a read that is over, for the end of its lease."""
        with self._lock:
            if not self._closed:
                self._ending[lease] = _Kept(time.monotonic() + KEPT_SECONDS, address, line)
                return
        line.close()

    def release(self, request: wire.ReleaseRequest, deadline: Deadline) -> bool:
        """Ends a lease over the connection of its read, which is then free again; whether the store has said so."""
        with self._lock:
            kept = self._ending.pop(request.lease, None)
        if kept is None:
            return False
        try:
            head = REQUEST.pack(RELEASE, len(request.verdicts), b"")
            kept.line.send(head + bytes(request.verdicts), deadline)
            told = kept.line.take(ANSWER.size, deadline) == ANSWER.pack(GO, 0)
        except OSError:
            told = False
        if told:
            self.keep(kept.address, kept.line)
        else:
            kept.line.close()
        return told

    def close(self) -> None:
        """Gives up those that are kept, and those that come back. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            kept = [*self._kept, *self._ending.values()]
            self._kept.clear()
            self._ending.clear()
        for one in kept:
            one.line.close()

    def _reserved(self, line: Line, message: wire.Reserve, deadline: Deadline) -> wire.WriteResponse:
        timeout_ms = min(max(1, round(deadline.remaining() * 1000)), MOST_MILLISECONDS)
        request = session_pb2.SessionRequest(timeout_ms=timeout_ms, reserve=message).SerializeToString()
        if len(request) > MOST_MESSAGE:
            raise TooLarge(f"a reservation has at most {MOST_MESSAGE} bytes, got {len(request)}; put in several calls")
        line.send(REQUEST.pack(RESERVE, len(request), b"") + request, deadline)
        if not line.readable(min(RESERVE_SECONDS, deadline.remaining())):
            raise TimeoutError("the store did not answer")
        return answered(line, deadline)

    def _kept_one(self, address: str) -> Line | None:
        while True:
            with self._lock:
                if not self._kept:
                    return None
                until, where, line = self._kept.pop()
                same = self._made_with.get(line) is self._connection.tls
            # whatever comes on one that rests is its end
            if same and where == address and time.monotonic() < until and not line.readable(0):
                return line
            line.close()

    def _connected(self, address: str, deadline: Deadline) -> Line:
        host, port = host_of(address) or host_of(self._connection.address), int(address.rpartition(":")[2])
        credentials, tls = self._connection.credentials, self._connection.tls
        if tls is None and (credentials.tls or not stays_here(f"{host}:{port}")):
            raise ConnectionError(f"the ticket and the blocks would leave this machine without TLS, for {host}")
        seconds = min(CONNECT_SECONDS, deadline.remaining())
        if not seconds:
            raise TimeoutError("the deadline passed")
        until = Deadline.after(seconds)
        connection = self._resolver.connect(host, port, until)
        try:
            line = client_line(connection, STALL_SECONDS, tls, credentials.server_name or host, until)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._made_with[line] = tls
        return line
