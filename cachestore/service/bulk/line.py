"""One connection for bytes alone, plain or TLS: what is sent or asked for goes whole, or the connection is broken.

Sockets block, and the kernel keeps the time: one call then moves a whole block, where a socket with a timeout of
Python's would need one for every few hundred KiB.
"""

import select
import socket
import ssl
import struct
import time
from typing import Any, Protocol

from cachestore.block import Buffer
from cachestore.deadline import Deadline

_TIMEVAL = struct.Struct("@ll")

SEALED_PIECE = 64 << 10
"""Bytes encrypted at once: what comes out is still in the core's own cache when it is sent."""

ARRIVING_PIECE = 256 << 10
"""Bytes of TLS taken from the socket at once."""


class Line(Protocol):
    """What is broken raises OSError, also one that is late; it is of no use any more, and must be closed."""

    def send(self, data: Buffer | bytes, deadline: Deadline, *, more: bool = False) -> None:
        """All of it; with `more`, the rest of a packet may wait for what follows at once."""

    def fill(self, memory: Buffer, deadline: Deadline) -> None:
        """Takes as many bytes as that is."""

    def take(self, nbytes: int, deadline: Deadline) -> bytes:
        """The next so many bytes, of something small."""

    def readable(self, seconds: float) -> bool:
        """Whether something has come, or the end, after waiting so long at most."""

    def certificate(self) -> bytes:
        """What the other side has shown, as DER; empty if it has not."""

    def shut(self) -> None:
        """Breaks it, from any thread."""

    def close(self) -> None:
        """Gives it up. Closing twice is allowed."""


class PlainLine:
    """Bytes as they are. A peer that moves nothing for `stall` seconds has broken it."""

    def __init__(self, connection: socket.socket, stall: float) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(stall * 1000)))
        self._socket = connection
        self._stall = stall
        self._limits: dict[int, float] = {}
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, data: Buffer | bytes, deadline: Deadline, *, more: bool = False) -> None:
        view, flags = _view(data), socket.MSG_MORE if more else 0
        while view:
            self._limit(socket.SO_SNDTIMEO, deadline)
            view = view[self._socket.send(view, flags) :]

    def fill(self, memory: Buffer, deadline: Deadline) -> None:
        view = memory.data
        while view:
            view = view[self._some(view, deadline, socket.MSG_WAITALL) :]

    def take(self, nbytes: int, deadline: Deadline) -> bytes:
        memory = bytearray(nbytes)
        view = memoryview(memory)
        while view:
            view = view[self._some(view, deadline, socket.MSG_WAITALL) :]
        return bytes(memory)

    def readable(self, seconds: float) -> bool:
        return bool(self._poll.poll(seconds * 1000))

    def certificate(self) -> bytes:
        return b""

    def shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is gone already

    def close(self) -> None:
        self._socket.close()

    def _some(self, view: memoryview, deadline: Deadline, flags: int = 0) -> int:
        self._limit(socket.SO_RCVTIMEO, deadline)
        got = self._socket.recv_into(view, 0, flags)
        if not got:
            raise ConnectionResetError("the connection ended")
        return got

    def _limit(self, option: int, deadline: Deadline) -> None:
        """The next call on the socket ends in time."""
        left, set_to = deadline.at - time.monotonic(), self._limits.get(option)
        if left >= self._stall == set_to:
            return
        if left <= 0:
            raise TimeoutError("the deadline passed")
        seconds = min(self._stall, left)
        whole = int(seconds)
        # at least a millisecond: zero would mean for ever
        fraction = max(1000, int((seconds - whole) * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, fraction))
        self._limits[option] = seconds


class TlsLine(PlainLine):
    """The same within TLS.

    OpenSSL works on memory and we move what it makes: on a socket of its own it would ask the system twice for every
    record of 16 KiB.
    """

    def __init__(self, connection: socket.socket, stall: float, context: ssl.SSLContext, name: str | None) -> None:
        """`name` is the server's, in its client."""
        super().__init__(connection, stall)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=name is None, server_hostname=name)
        self._arrived = memoryview(bytearray(ARRIVING_PIECE))

    def shake_hands(self, deadline: Deadline) -> None:
        """Before anything else; ssl.SSLError if the other side is not to be trusted."""
        while True:
            try:
                self._tls.do_handshake()
                return self._flush(deadline)
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._arrive(deadline)

    def send(self, data: Buffer | bytes, deadline: Deadline, *, more: bool = False) -> None:
        view = _view(data)
        for at in range(0, len(view), SEALED_PIECE):
            self._tls.write(view[at : at + SEALED_PIECE])
            self._flush(deadline, more=more)

    def fill(self, memory: Buffer, deadline: Deadline) -> None:
        self._decrypt(memory.data, deadline)

    def take(self, nbytes: int, deadline: Deadline) -> bytes:
        memory = bytearray(nbytes)
        self._decrypt(memoryview(memory), deadline)
        return bytes(memory)

    def readable(self, seconds: float) -> bool:
        return bool(self._incoming.pending or self._tls.pending()) or super().readable(seconds)

    def certificate(self) -> bytes:
        return self._tls.getpeercert(True) or b""

    def _decrypt(self, view: memoryview, deadline: Deadline) -> None:
        at, size = 0, len(view)
        while at < size:
            try:
                got: Any = self._tls.read(size - at, view[at:])
            except ssl.SSLWantReadError:
                self._arrive(deadline)
                continue
            if not got:
                raise ConnectionResetError("the connection ended")
            at += got

    def _arrive(self, deadline: Deadline) -> None:
        self._incoming.write(self._arrived[: self._some(self._arrived, deadline)])

    def _flush(self, deadline: Deadline, *, more: bool = False) -> None:
        if sealed := self._outgoing.read():
            super().send(sealed, deadline, more=more)


def _view(data: Buffer | bytes) -> memoryview:
    return memoryview(data) if isinstance(data, bytes) else data.data


def server_line(connection: socket.socket, stall: float, context: ssl.SSLContext | None, deadline: Deadline) -> Line:
    """The server's end of a new connection."""
    return _line(connection, stall, context, None, deadline)


def client_line(
    connection: socket.socket, stall: float, context: ssl.SSLContext | None, name: str, deadline: Deadline
) -> Line:
    """The client's end, to the server of this name."""
    return _line(connection, stall, context, name, deadline)


def _line(
    connection: socket.socket, stall: float, context: ssl.SSLContext | None, name: str | None, deadline: Deadline
) -> Line:
    if context is None:
        return PlainLine(connection, stall)
    line = TlsLine(connection, stall, context, name)
    line.shake_hands(deadline)
    return line
