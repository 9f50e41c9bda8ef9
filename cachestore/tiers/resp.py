"""One connection that speaks the Redis protocol (RESP2, redis.io/docs/reference/protocol-spec), with bounded waits.

1. Blocks go from the socket straight into their own memory and from theirs straight to the socket; all else is parsed
   by hiredis.
2. A call ends at the point in time given to `begin`, or when no byte moved for `patience` seconds.
3. Whatever does not fit the protocol, comes too late or comes unasked makes the connection `Broken`: it is closed and
   never used again, so no answer is ever taken for another's.
"""

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import hiredis
import numpy as np

from cachestore.block import Buffer
from cachestore.seal import CorruptBlock
from cachestore.tiers.resp_errors import Broken, Refused
from cachestore.tiers.resp_socket import BoundedSocket

FRONT_BYTES = 4 << 10
"""What is read ahead of a value's own memory at most."""

JUDGED_BYTES = 512
"""How much of a value is there at least, if it has that much, when it is judged."""

WINDOW_BYTES = 1 << 20
"""Values that may be asked for ahead: more leave the caches of both sides before they are copied out."""

WINDOW, WINDOW_UNKNOWN = 256, 16
RECEIVED_BYTES = 64 << 10
SKIPPED_BYTES = 1 << 20
"""A value without use is read to its end if it is no longer than this; else the connection is given up."""

LONGEST_LINE = 1024

Command: TypeAlias = tuple[bytes | str | int, ...]


class Connection:
    """Owns a connected socket. One thread at a time."""

    def __init__(self, sock: socket.socket, patience: float) -> None:
        self._socket = BoundedSocket(sock, patience)
        self._reader = hiredis.Reader(protocolError=_protocol, replyError=self._refused)
        self._front = memoryview(bytearray(FRONT_BYTES))
        self._low = self._high = 0
        self.spent = False
        """True once a value was left unread: what follows it on the wire can no longer be reached."""
        self.strayed = False
        """True once a name was asked for that another node has, since `begin`."""

    def begin(self, until: float) -> None:
        """From here on everything ends at `until` (monotonic seconds)."""
        self._socket.until = until
        self.strayed = False

    def close(self) -> None:
        self._socket.close()

    @property
    def quiet(self) -> bool:
        """Whether nothing has come unasked: no late answer, no end of the connection."""
        return self._socket.quiet

    def call(self, *command: bytes | str | int) -> Any:
        """The answer to one command; raises Refused if it is an error."""
        (answer,) = self.ask([command])
        if isinstance(answer, Refused):
            raise answer
        return answer

    def ask(self, commands: Sequence[Command], silent: float = 0.0) -> list[Any]:
        """The answers to short commands, errors as instances of Refused; they may take `silent` seconds longer."""
        self.send([b"".join(map(_packed, commands))])
        self._socket.patience += silent
        answers = self.answers(len(commands))
        self._socket.patience -= silent
        return answers

    def send(self, pieces: Sequence[bytes | Buffer]) -> None:
        """Sends these bytes."""
        self._socket.send(pieces)

    def answers(self, count: int, more: bool = False) -> list[Any]:
        """The next `count` answers; `more` if others are still to come."""
        found: list[Any] = []
        last = b""
        while True:
            while len(found) < count and (answer := self._reader.gets()) is not False:
                found.append(answer)
            if len(found) == count:
                break
            data = self._socket.receive(RECEIVED_BYTES)
            # the parser makes room at once for as many answers as a list announces
            if _HUGE_LIST.search(last + data):
                raise Broken("protocol")
            last = data[-_HUGE_DIGITS:]
            self._reader.feed(data)
        if self._reader.has_data() and not more:
            raise Broken("protocol")
        return found

    def values(
        self, names: Sequence[bytes], take: Callable[[int], Buffer], judge: Callable[[memoryview, int], str]
    ) -> Iterator[Buffer | CorruptBlock | Refused | None]:
        """The values of these names, in order; ends early once `spent`.

        `take` gives memory for that many bytes. `judge` is shown the front of a value and its length before; unless it
        returns "", the value is a CorruptBlock for that reason, and no memory is taken.
        """
        asked, window = 0, 1
        for got in range(len(names)):
            # the first answer says how large the others may be
            if asked < len(names) and asked - got <= window // 2:
                ahead = names[asked : got + window]
                self.send([b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(name), name) for name in ahead)])
                asked += len(ahead)
            value = self._value(take, judge)
            yield value
            if self.spent:
                return
            if isinstance(value, np.ndarray):
                window = min(WINDOW, max(1, WINDOW_BYTES // max(1, value.nbytes)))
            else:
                # what is missing says nothing about the size of what is not
                window = max(window, min(WINDOW_UNKNOWN, 2 * window))
        if self._low != self._high:
            raise Broken("protocol")

    def _value(
        self, take: Callable[[int], Buffer], judge: Callable[[memoryview, int], str]
    ) -> Buffer | CorruptBlock | Refused | None:
        line = self._line()
        if line[:1] == b"-":
            return self._refused(line[1:].decode(errors="replace"))
        if line == b"$-1":
            return None
        if line[:1] != b"$" or not line[1:].isdigit():
            raise Broken("protocol")
        length = int(line[1:])
        self._have(min(length, JUDGED_BYTES))
        near = min(length, self._high - self._low)
        if reason := judge(self._front[self._low : self._low + near], length):
            self._skip(length)
            return CorruptBlock(reason)
        value = take(length)
        value[:near] = self._front[self._low : self._low + near]
        self._low += near
        self._socket.fill(value.data[near:])
        self._end()
        return value

    def _refused(self, text: str) -> Refused:
        refused = Refused(text)
        self.strayed |= refused.elsewhere
        return refused

    def _line(self) -> bytes:
        while True:
            near = bytes(self._front[self._low : min(self._high, self._low + LONGEST_LINE)])
            line, found, _ = near.partition(b"\r\n")
            if found:
                self._low += len(line) + 2
                return line
            if len(near) == LONGEST_LINE:
                raise Broken("protocol")
            self._have(len(near) + 1)

    def _have(self, nbytes: int) -> None:
        """Reads on until `nbytes` are in the front buffer, or more."""
        if self._low + nbytes > FRONT_BYTES or self._low == self._high:
            rest = self._high - self._low
            self._front[:rest] = bytes(self._front[self._low : self._high])
            self._low, self._high = 0, rest
        while self._high - self._low < nbytes:
            self._high += self._socket.receive_into(self._front[self._high :])

    def _skip(self, length: int) -> None:
        if length > SKIPPED_BYTES:
            self.spent = True
            return
        while length:
            self._have(1)
            step = min(length, self._high - self._low)
            self._low += step
            length -= step
        self._end()

    def _end(self) -> None:
        self._have(2)
        if bytes(self._front[self._low : self._low + 2]) != b"\r\n":
            raise Broken("protocol")
        self._low += 2


# lists, and the kinds of them that came with RESP3
_HUGE_DIGITS = 6
_HUGE_LIST = re.compile(rb"[*%%~>|]\d{%d}" % _HUGE_DIGITS)

# its type stub means tuples of any length and says tuples of one
_packed: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment]


def _protocol(text: str) -> Exception:
    return Broken("protocol")
