"""One Redis server that holds blocks: its connections, its breaker, and whether it is fit to hold any."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from cachestore.tiers.breaker import Breaker
from cachestore.tiers.redis_condition import POLICY, Condition
from cachestore.tiers.redis_durable import sweep
from cachestore.tiers.redis_url import Address
from cachestore.tiers.resp import Connection
from cachestore.tiers.resp_dial import Dialer
from cachestore.tiers.resp_errors import Broken

CONNECTIONS = 8
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0

log = logging.getLogger(__name__)


class Unfit(Exception):
    """There is no connection to be had now; nothing was tried."""


@dataclass(eq=False)
class Node:
    """At most `CONNECTIONS` connections to the server at `address`."""

    address: Address
    dialer: Dialer
    check_after: float
    """How many seconds the server is taken to be as it was last seen."""
    sweeps: bool
    """Whether durable blocks whose time is over are looked for."""
    breaker: Breaker = field(default_factory=lambda: Breaker(first=FIRST_PAUSE, longest=LONGEST_PAUSE))
    reason: str = ""
    """Why the last call failed; empty after one that went well."""
    _idle: list[Connection] = field(default_factory=list)
    _places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(CONNECTIONS))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False
    _checked: float = float("-inf")
    _swept: int = 0

    @contextlib.contextmanager
    def connection(self, until: float) -> Iterator[Connection]:
        """A connection for one call, which ends at `until`. Unfit if there is none now, Broken as the call found it."""
        if not self._places.acquire(timeout=max(0.0, min(until - time.monotonic(), self.dialer.timeout))):
            raise Unfit
        try:
            if self._closed or not self.breaker.allows():
                raise Unfit
            connection = self._ready(until)
            try:
                if time.monotonic() - self._checked > self.check_after:
                    self.check(connection)
                connection.begin(until)
                yield connection
            except BaseException:
                connection.close()
                raise
            self._put_back(connection)
        except Broken as broken:
            # who is in a greater hurry than it takes to connect learns nothing about the server
            if broken.reason != "timeout" or broken.waited >= self.dialer.connect_timeout:
                self._failed(broken.reason)
            raise
        finally:
            self._places.release()
        self._well()

    def check(self, connection: Connection) -> None:
        """Asks what the server is like; Broken unless blocks may be put there."""
        condition = Condition.of(connection)
        if not condition.primary:
            raise Broken("moved")
        if condition.policy != POLICY:
            raise Broken("policy")
        if self.sweeps:
            self._swept = sweep(connection, self._swept)
        self._checked = time.monotonic()

    def close(self) -> None:
        """Closes what is idle; connections in use are closed when their call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ready(self, until: float) -> Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self.dialer.dial(self.address, until)
            elif not connection.quiet:
                connection.close()
                continue
            connection.begin(min(until, time.monotonic() + self.dialer.timeout))
            return connection

    def _put_back(self, connection: Connection) -> None:
        with self._lock:
            keep = not (self._closed or connection.spent)
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()

    def _failed(self, reason: str) -> None:
        self.breaker.failed()
        self._checked = float("-inf")
        if reason != self.reason:
            log.warning("redis tier: %s does not serve: %s", self.address, reason)
        self.reason = reason

    def _well(self) -> None:
        self.breaker.succeeded()
        if self.reason:
            log.warning("redis tier: %s serves again", self.address)
        self.reason = ""
