"""Messages over the unix socket of a shared-memory session: their length, then so many bytes.

Descriptors travel with the first byte of a message. Whoever connects may send anything: a message is bounded, must come
whole within `STALL` seconds once it has begun, or sooner where somebody has less time, and nothing may follow it before
it is answered.
"""

import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from cachestore.errors import Overloaded
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


def receive(connection: socket.socket, wait: float | None, most: int = MAX_MESSAGE) -> bytes | None:
    """The next message, if it begins within `wait` seconds, else TimeoutError; None if the connection has ended.

    One of more than `most` bytes is none.
    """
    connection.settimeout(wait)
    return _whole(connection, connection.recv(min(CHUNK, _LENGTH.size + most)), math.inf, most)


@contextmanager
def received(
    connection: socket.socket,
    wait: float | None,
    admitted: Callable[[int], AbstractContextManager[None]],
    descriptors: list[int] | None = None,
) -> Iterator[bytes | None]:
    """The same, within what admits one of so many bytes: from when its length is known for as long as this lasts.

    Overloaded if that refuses it, which is once it was thrown away as it came. Descriptors that come with it are
    appended to `descriptors`, whose owner closes them, however this ends; without that, nobody gets them.
    """
    connection.settimeout(wait)
    if descriptors is None:
        first = connection.recv(CHUNK)
    else:
        first, came, flags, _ = socket.recv_fds(connection, CHUNK, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        descriptors += came
        if flags & socket.MSG_CTRUNC:
            raise Garbled("descriptors were lost: they are too many, or this process may have no more open files")
    until = time.monotonic() + STALL
    if not first:
        yield None
        return
    first, size = _begun(connection, first, until, MAX_MESSAGE)
    with ExitStack() as held:
        try:
            held.enter_context(admitted(size))
        except Overloaded:
            for _ in _rest(connection, first, size, until):
                pass
            raise
        yield b"".join(_rest(connection, first, size, until))


def receive_with_descriptors(
    connection: socket.socket, wait: float | None, until: float = math.inf
) -> tuple[bytes | None, list[int]]:
    """The same with the descriptors that came with it, which are the caller's to close; whole by `until`, in monotonic
    seconds."""
    connection.settimeout(wait)
    data, descriptors, flags, _ = socket.recv_fds(connection, CHUNK, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    try:
        if flags & socket.MSG_CTRUNC:
            raise Garbled("descriptors were lost: this process may have no more open files")
        return _whole(connection, data, until), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def ended(connection: socket.socket) -> bool:
    """Whether its other end is gone, or this one takes nothing more; whatever was sent before."""
    look = select.poll()
    look.register(connection, select.POLLRDHUP)
    return bool(look.poll(0))


def _whole(connection: socket.socket, first: bytes, until: float, most: int = MAX_MESSAGE) -> bytes | None:
    if not first:
        return None
    until = min(until, time.monotonic() + STALL)
    first, size = _begun(connection, first, until, most)
    return b"".join(_rest(connection, first, size, until))


def _begun(connection: socket.socket, first: bytes, until: float, most: int) -> tuple[bytes, int]:
    """What came of a message behind its length, and that."""
    while len(first) < _LENGTH.size:
        first += _more(connection, _LENGTH.size - len(first), until)
    (size,) = _LENGTH.unpack_from(first)
    if size > most or len(first) > _LENGTH.size + size:
        raise Garbled("the message is too long, or more came than it says")
    return first[_LENGTH.size :], size


def _rest(connection: socket.socket, first: bytes, size: int, until: float) -> Iterator[bytes]:
    """The pieces of a message of this size, of which the first came."""
    yield first
    left = size - len(first)
    while left:
        piece = _more(connection, left, until)
        left -= len(piece)
        yield piece


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
