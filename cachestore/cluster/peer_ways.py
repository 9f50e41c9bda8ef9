"""The connections to one other node: every call says whose blocks are meant, so each namespace has its own."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from cachestore.errors import ConfigError, Unavailable
from cachestore.service.auth.credentials import Credentials
from cachestore.service.bulk.lines import Lines
from cachestore.service.connection import Connection

MOST_WAYS = 32
"""Namespaces with a connection to a node; the one used longest ago makes room, unless it is in use."""


@dataclass(eq=False)
class Way:
    """A channel for calls, and connections for bytes, in one namespace; so many `users` are on it now."""

    connection: Connection
    lines: Lines
    users: int = 0

    def close(self) -> None:
        """Ends calls and connections."""
        self.lines.close()
        self.connection.close()


@dataclass(eq=False)
class Ways:
    """Those to the node of the life `incarnation` at `address`; whoever else answers there refuses."""

    address: str
    incarnation: bytes
    credentials: Credentials
    _ways: OrderedDict[bytes, Way] = field(default_factory=OrderedDict)
    _closed: bool = False
    _lock: Lock = field(default_factory=Lock)

    @contextmanager
    def hold(self, namespace: bytes) -> Iterator[Way]:
        """The way for this namespace, which stays open meanwhile unless all are closed; Unavailable once they are."""
        with self._lock:
            way = self._ways.get(namespace) or self._opened(namespace)
            self._ways.move_to_end(namespace)
            way.users += 1
            over = self._superfluous()
        for old in over:
            old.close()
        try:
            yield way
        finally:
            with self._lock:
                way.users -= 1

    def close(self) -> None:
        """Ends the connections, and every call on them. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            ways, self._ways = list(self._ways.values()), OrderedDict()
        for way in ways:
            way.close()

    def _opened(self, namespace: bytes) -> Way:
        if self._closed:
            raise Unavailable(f"the connections to {self.address} are closed")
        if self.address.startswith("unix:"):
            # whoever may write to the directory could have a token shown to any socket of this machine
            raise ConfigError(f"a node of the directory is reached by host and port, not at {self.address}")
        connection = Connection(self.address, self.credentials.for_namespace(namespace, self.incarnation))
        connection.open()
        self._ways[namespace] = way = Way(connection, Lines(connection))
        return way

    def _superfluous(self) -> list[Way]:
        """Takes those out that make room."""
        spare = len(self._ways) - MOST_WAYS
        idle = [namespace for namespace, way in self._ways.items() if not way.users][: max(0, spare)]
        return [self._ways.pop(namespace) for namespace in idle]
