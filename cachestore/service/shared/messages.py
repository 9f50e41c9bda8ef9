"""Messages over the unix socket of a shared-memory session: their length, then so many bytes.

Descriptors travel with the first byte of a message. Whoever connects may send anything: a message is bounded, must come
whole within `STALL` seconds once it has begun, or sooner where somebody has less time, and nothing may follow it before
it is answered.
"""

import math
import os
import socket
import struct
import time
from collections.abc import Sequence

from cachestore.service.settings import MAX_MESSAGE

STALL = 5.0
"""Seconds that a message may take on its way, from its first byte on."""

MOST_DESCRIPTORS = 64
"""Descriptors that come with one message; the kernel takes 253."""

CHUNK = 64 << 10

_LENGTH = struct.Struct("<I")


class Garbled(Exception):
    """What came is no message of a session; the connection cannot go on."""


def send(
    connection: socket.socket, message: bytes, descriptors: Sequence[int] = (), *, within: float = math.inf
) -> None:
    """Sends one message; OSError if it cannot be, TimeoutError if the peer does not take it `within` these seconds."""
    data = _LENGTH.pack(len(message)) + message
    until = time.monotonic() + min(STALL, within)
    connection.settimeout(_left(until))
    sent = socket.send_fds(connection, [data], descriptors) if descriptors else connection.send(data)
    if sent < len(data):
        connection.settimeout(_left(until))
        connection.sendall(memoryview(data)[sent:])


def receive(connection: socket.socket, wait: float | None) -> bytes | None:
    """The next message, if it begins within `wait` seconds, else TimeoutError; None if the connection has ended."""
    connection.settimeout(wait)
    return _whole(connection, connection.recv(CHUNK), math.inf)


def receive_with_descriptors(
    connection: socket.socket, wait: float | None, until: float = math.inf
) -> tuple[bytes | None, list[int]]:
    """The same with the descriptors that came with it, which are the caller's to close; whole by `until`, in monotonic
    seconds."""
    connection.settimeout(wait)
    data, descriptors, flags, _ = socket.recv_fds(connection, CHUNK, MOST_DESCRIPTORS)
    try:
        if flags & socket.MSG_CTRUNC:
            raise Garbled("descriptors were lost: this process may have no more open files")
        return _whole(connection, data, until), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _whole(connection: socket.socket, first: bytes, until: float) -> bytes | None:
    if not first:
        return None
    until = min(until, time.monotonic() + STALL)
    while len(first) < _LENGTH.size:
        first += _more(connection, _LENGTH.size - len(first), until)
    (size,) = _LENGTH.unpack_from(first)
    if size > MAX_MESSAGE or len(first) > _LENGTH.size + size:
        raise Garbled("the message is too long, or more came than it says")
    parts = [first[_LENGTH.size :]]
    left = size - len(parts[0])
    while left:
        parts.append(_more(connection, min(left, MAX_MESSAGE), until))
        left -= len(parts[-1])
    return b"".join(parts)


def _more(connection: socket.socket, nbytes: int, until: float) -> bytes:
    connection.settimeout(_left(until))
    try:
        data = connection.recv(nbytes)
    except TimeoutError:
        # what would come next is the rest of this message, not the beginning of one
        raise Garbled("the message did not come whole in time") from None
    if not data:
        raise Garbled("the connection ended within a message")
    return data


def _left(until: float) -> float:
    return max(until - time.monotonic(), 1e-3)
