"""The client's side of one shared-memory session: a request at a time, and the slabs that it was told of."""

import os
import socket
import time
from collections.abc import Callable, MutableMapping, Sequence

from google.protobuf.message import DecodeError

from cachestore.errors import DeadlineExceeded, Unavailable
from cachestore.service import status
from cachestore.service.shared.mapped import Mapped, Places
from cachestore.service.shared.messages import Garbled, receive_with_descriptors, send
from cachestore.wire import session_pb2 as wire

PATIENCE = 1.5
"""Seconds without an answer after which the store is asked whether it is still there."""

MARGIN = 0.1
"""Seconds beyond its deadline that an answer may take: the store says itself that the time is over."""

ALIVE_SECONDS = 1.0
"""What it may take to find out whether the store is still there: it is not asked where less time is left."""


class Lost(Exception):
    """The session is over; whatever it had open is given up."""


class SharedSession:
    """A connection to the socket at `path`, opened with a ticket.

    `known` has all slabs of that store that this process has mapped, by number, so that many sessions map each once.
    `alive` says within `ALIVE_SECONDS` whether the store answers otherwise.
    """

    def __init__(self, path: str, known: MutableMapping[int, Mapped], alive: Callable[[], bool]) -> None:
        self._path = path
        self._known = known
        self._alive = alive
        self._slabs: dict[int, Mapped] = {}
        self._connection: socket.socket | None = None
        self.namespace = b""

    def open(self, ticket: bytes, timeout: float, device: str = "") -> None:
        """Connects, shows the ticket and names the device whose memory can be opened here, if any.

        Lost if there is nothing to connect to.
        """
        self._connection = connection = socket.socket(socket.AF_UNIX)
        until = time.monotonic() + timeout
        try:
            connection.settimeout(max(timeout, 1e-3))
            connection.connect(self._path)
            hello = wire.SessionRequest(hello=wire.Hello(ticket=ticket, device=device))
            answer = self.ask(hello, max(until - time.monotonic(), 1e-3))
        except OSError as error:
            self.close()
            raise Lost from error
        except BaseException:
            self.close()
            raise
        self.namespace = answer.welcome.namespace_id

    def close(self) -> None:
        """Ends the session. Closing twice is allowed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._slabs.clear()

    @property
    def lost(self) -> bool:
        """Whether it broke, or was closed."""
        return self._connection is None

    @property
    def usable(self) -> bool:
        """Whether it was not ended from the other side while nobody used it."""
        if self._connection is None:
            return False
        self._connection.setblocking(False)
        try:
            # nothing is sent without being asked for: whatever there is to read is the end
            self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def ask(self, request: wire.SessionRequest, timeout: float, descriptors: Sequence[int] = ()) -> wire.SessionAnswer:
        """The answer, within `timeout` seconds; raises what the store answers instead, and Lost if the session broke.

        Unavailable if the store does not answer in any way, DeadlineExceeded if it does so late; then it is over too.
        """
        if self._connection is None:
            raise Lost
        request.timeout_ms = max(1, round(timeout * 1000))
        until = time.monotonic() + timeout + MARGIN
        try:
            self._send(self._connection, request.SerializeToString(), descriptors, until)
            answer = self._answer(self._connection, until)
            while answer.WhichOneof("message") is None:
                answer = self._answer(self._connection, until)
        except (OSError, Garbled, DecodeError, ValueError) as error:
            self.close()
            raise Lost from error
        except BaseException:
            self.close()
            raise
        if answer.HasField("failure"):
            raise status.named(answer.failure.reason, answer.failure.text)
        return answer

    def places(self, message: wire.Places) -> Places:
        """The places that an answer names. Lost if they are none."""
        columns = message.offsets, message.sizes, message.generations
        try:
            places = Places(list(map(self._slabs.__getitem__, message.slabs)), *columns)
        except (KeyError, OverflowError):
            places = None
        if places is None or any(len(column) != len(places) for column in columns) or not places.sound:
            self.close()
            raise Lost
        return places

    def keep(self, answer: wire.SessionAnswer, descriptors: list[int]) -> None:
        """Maps what an answer brings; ValueError if that is not what it says. The descriptors stay the caller's."""
        for slab, descriptor in zip(answer.slabs, descriptors, strict=True):
            self._slabs[slab.number] = self._mapped(slab, descriptor)

    def _send(self, connection: socket.socket, message: bytes, descriptors: Sequence[int], until: float) -> None:
        try:
            send(connection, message, descriptors=descriptors, within=until - time.monotonic())
        except TimeoutError:
            if time.monotonic() < until:
                raise
            raise DeadlineExceeded("the store did not take the request in time") from None

    def _answer(self, connection: socket.socket, until: float) -> wire.SessionAnswer:
        while True:
            left = until - time.monotonic()
            try:
                data, descriptors = receive_with_descriptors(connection, max(1e-3, min(PATIENCE, left)), until)
                break
            except TimeoutError:
                left = until - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded("the store did not answer in time") from None
                if left > ALIVE_SECONDS and not self._alive():
                    raise Unavailable("the store does not answer any more") from None
        try:
            if data is None:
                raise Garbled("the store ended the session")
            answer = wire.SessionAnswer.FromString(data)
            self.keep(answer, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        for number in answer.gone:
            self._slabs.pop(number, None)
        return answer

    def _mapped(self, slab: wire.Slab, descriptor: int) -> Mapped:
        known = self._known.get(slab.number)
        if known is None or (slab.writable and not known.bytes.flags.writeable):
            known = self._known[slab.number] = Mapped(descriptor, slab.bytes, writable=slab.writable)
        return known
