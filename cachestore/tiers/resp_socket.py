"""Bytes to and from a socket, plain or TLS, where no step waits for longer than it may."""

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from cachestore.block import Buffer
from cachestore.tiers.resp_errors import Broken

PIECES = 64
TLS_BYTES = 64 << 10


class BoundedSocket:
    """Owns a connected socket. One thread at a time.

    Every step raises Broken at `until` (monotonic seconds), once no byte moved for `patience` seconds, and when the
    connection ends.
    """

    def __init__(self, sock: socket.socket, patience: float) -> None:
        self.until = 0.0
        self.patience = patience
        self._socket = sock
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self._left = 0.0
        if self._plain:
            # waits are bounded by the socket itself, so that one call into the system can fetch a whole block
            sock.settimeout(None)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def close(self) -> None:
        self._socket.close()

    @property
    def quiet(self) -> bool:
        """Whether nothing is there to be received, not even the end of the connection."""
        return not self._poll.poll(0)

    def send(self, pieces: Sequence[bytes | Buffer]) -> None:
        """Sends these bytes, all of them."""
        whole = (piece.data if isinstance(piece, np.ndarray) else memoryview(piece) for piece in pieces)
        # to send no bytes at all looks like a connection that is gone
        views = deque(view for view in whole if view.nbytes)
        while views:
            sent = self._moved(self._gather, views)
            while views and sent >= views[0].nbytes:
                sent -= views.popleft().nbytes
            if sent:
                views[0] = views[0][sent:]

    def receive(self, most: int) -> bytes:
        """The next bytes, from one to `most` of them."""
        data: bytes = self._moved(self._socket.recv, most)
        return data

    def receive_into(self, view: memoryview) -> int:
        """Puts the next bytes to the front of `view`; how many, from one to all it has room for."""
        nbytes: int = self._moved(self._socket.recv_into, view)
        return nbytes

    def fill(self, view: memoryview) -> None:
        """Fills all of `view`."""
        done = 0
        while done < len(view):
            done += self._moved(self._rest, view[done:])

    def _rest(self, view: memoryview) -> int:
        # over TLS a call gives one record at most, and takes no flags
        return self._socket.recv_into(view, 0, socket.MSG_WAITALL if self._plain else 0)

    def _gather(self, views: deque[memoryview]) -> int:
        if self._plain:
            return self._socket.sendmsg(list(islice(views, PIECES)))
        # TLS takes a piece whole or not at all, and is to show that bytes move
        return self._socket.send(views[0][:TLS_BYTES])

    def _moved(self, move: Callable[[Any], Any], what: Any) -> Any:
        """One step of input or output; Broken if it does not come to pass in time."""
        left = min(self.patience, self.until - time.monotonic())
        if left <= 0:
            raise Broken("timeout")
        try:
            if left != self._left:
                self._wait(left)
            moved = move(what)
        except (TimeoutError, BlockingIOError) as error:
            raise Broken("timeout", waited=left) from error
        except OSError as error:
            raise Broken("unreachable") from error
        if not moved:
            raise Broken("unreachable")
        return moved

    def _wait(self, left: float) -> None:
        self._left = left
        if not self._plain:
            self._socket.settimeout(left)
            return
        # no time at all would mean for ever
        seconds, micros = divmod(max(1000, int(left * 1e6)), 1_000_000)
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, direction, struct.pack("@ll", seconds, micros))
