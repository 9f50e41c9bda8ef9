"""Names to addresses, in time: the machine's resolver takes as long as it likes, and nothing interrupts it."""

import socket
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any

from cachestore.deadline import Deadline

Places = list[tuple[Any, ...]]
"""What `socket.getaddrinfo` gives: where to connect, the best first."""


@dataclass(eq=False)
class Resolver:
    """Asks the machine's resolver, once at a time for each name however many wait for it. For many threads."""

    _asked: dict[tuple[str, int], "Future[Places]"] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def resolve(self, host: str, port: int, seconds: float) -> Places:
        """Where streams to `port` of `host` go. OSError if nobody knows, TimeoutError if that takes too long."""
        with self._lock:
            asked = self._asked.get((host, port))
            if asked is None:
                asked = self._asked[host, port] = Future()
                # a daemon: one that hangs does not keep the process
                Thread(target=self._ask, args=(host, port, asked), name="cachestore-resolver", daemon=True).start()
        return asked.result(seconds)

    def connect(self, host: str, port: int, deadline: Deadline) -> socket.socket:
        """A connection to the first place that has one for us, all of them tried by `deadline`. OSError if none has."""
        failed: OSError = TimeoutError("the deadline passed")
        for *kind, _, address in self.resolve(host, port, deadline.remaining()):
            left = deadline.remaining()
            if not left:
                break
            connection = socket.socket(*kind)
            try:
                connection.settimeout(left)
                connection.connect(address)
                return connection
            except OSError as error:
                connection.close()
                failed = error
        raise failed

    def _ask(self, host: str, port: int, asked: "Future[Places]") -> None:
        try:
            asked.set_result(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except BaseException as error:
            asked.set_exception(error)
        finally:
            with self._lock:
                del self._asked[host, port]
