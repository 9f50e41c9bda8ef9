"""One other node, as this one knows it: the ways to it, and whether it is worth asking."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from cachestore.cluster.peer_reading import Brought, read_sealed
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.deadline import Deadline
from cachestore.directory.base import Life
from cachestore.errors import CacheStoreError
from cachestore.hashing import Chain
from cachestore.metrics import Counters
from cachestore.service import convert
from cachestore.service.auth.credentials import Credentials
from cachestore.service.connection import Connection
from cachestore.tiers.breaker import Breaker
from cachestore.wire import store_pb2 as wire

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Peer:
    """The node of one life. Each namespace has a connection of its own: every call says whose blocks are meant.

    One call that fails opens the breaker: the next ones are misses at once.
    """

    life: Life
    settings: PeerSettings
    credentials: Credentials
    counters: Counters
    breaker: Breaker = field(default_factory=lambda: Breaker(failures=1))
    _connections: dict[bytes, Connection] = field(default_factory=dict)
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    def read(self, namespace: bytes, chain: Chain, deadline: Deadline) -> Brought | None:
        """The leading blocks of `chain` that it has; None if it cannot be asked now."""
        largest = self.settings.largest

        def read(connection: Connection, until: Deadline) -> Brought:
            return read_sealed(connection, namespace, chain, until, largest)

        return self._ask(namespace, deadline, read)

    def delete(self, namespace: bytes, chain: Chain, deadline: Deadline) -> bool:
        """Removes these blocks there; whether that is done."""
        request = wire.DeleteRequest(chain=convert.chain_message(chain))
        return self._call("Delete", request, namespace, deadline)

    def clear(self, namespace: bytes, deadline: Deadline) -> bool:
        """Removes all blocks of the namespace there; whether that is done."""
        return self._call("Clear", wire.ClearRequest(), namespace, deadline)

    def close(self) -> None:
        """Ends the connections, and every call on them."""
        with self._lock:
            self._closed = True
            connections, self._connections = list(self._connections.values()), {}
        for connection in connections:
            connection.close()

    def _call(self, method: str, request: object, namespace: bytes, deadline: Deadline) -> bool:
        def call(connection: Connection, until: Deadline) -> bool:
            connection.call(method, request, max(until.remaining(), 1e-3))
            return True

        return self._ask(namespace, deadline, call) or False

    def _ask(self, namespace: bytes, deadline: Deadline, what: Callable[[Connection, Deadline], T]) -> T | None:
        if not self.breaker.allows():
            return None
        until = Deadline(min(deadline.at, time.monotonic() + self.settings.timeout))
        try:
            answer = what(self._connection(namespace), until)
        except CacheStoreError as error:
            self.counters.add("peer_failures", reason=error.reason)
            # a caller in a hurry says nothing of the node
            if until.remaining() or until.at < deadline.at:
                if not self.breaker.open:
                    log.warning("[peers] %s at %s: %s", self.life.node, self.life.address, error)
                self.breaker.failed()
            return None
        self.breaker.succeeded()
        return answer

    def _connection(self, namespace: bytes) -> Connection:
        with self._lock:
            connection = self._connections.get(namespace)
            if connection is None:
                connection = Connection(self.life.address, self.credentials.for_namespace(namespace))
                if not self._closed:
                    connection.open()
                    self._connections[namespace] = connection
            return connection
