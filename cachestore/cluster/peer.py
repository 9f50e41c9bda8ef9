"""One other node, as this one knows it: the ways to it, and whether it is worth asking."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from cachestore.cluster.peer_reading import PeerReading
from cachestore.cluster.peer_settings import PeerSettings
from cachestore.cluster.peer_sources import Wanted
from cachestore.cluster.peer_ways import Ways
from cachestore.deadline import Deadline
from cachestore.directory.base import Life
from cachestore.errors import CacheStoreError, Overloaded
from cachestore.hashing import Chain
from cachestore.metrics import Counters
from cachestore.service import convert
from cachestore.service.auth.credentials import Credentials
from cachestore.tiers.breaker import Breaker
from cachestore.wire import store_pb2 as wire

log = logging.getLogger(__name__)


class Failed(Exception):
    """The node cannot be asked now, or broke off: it is counted, and the next ones are not kept waiting."""


@dataclass(eq=False)
class Peer:
    """The node of one life. One call that fails opens the breaker: the next ones are misses at once."""

    life: Life
    settings: PeerSettings
    credentials: Credentials
    counters: Counters
    breaker: Breaker = field(default_factory=lambda: Breaker(failures=1, longest=5.0))
    ways: Ways = field(init=False)

    def __post_init__(self) -> None:
        self.ways = Ways(self.life.address, self.life.incarnation, self.credentials)

    @contextmanager
    def reading(self, namespace: bytes, chain: Chain, deadline: Deadline) -> Iterator[PeerReading]:
        """A read of the leading blocks of `chain` that it has; Failed, also from inside the context, if it fails."""
        wanted = Wanted(namespace, chain, self.settings.largest)
        with self._asking(deadline), self.ways.hold(namespace) as way:
            reading = PeerReading(way, wanted, deadline, self.settings.timeout)
            with closing(reading):
                reading.open()
                self.breaker.succeeded()
                yield reading

    def delete(self, namespace: bytes, chain: Chain, deadline: Deadline) -> int | None:
        """Removes these blocks there; how many there were, None if that is not done."""
        request = wire.DeleteRequest(chain=convert.chain_message(chain))
        return self._call("Delete", request, namespace, deadline)

    def clear(self, namespace: bytes, deadline: Deadline) -> int | None:
        """Removes all blocks of the namespace there; how many there were, None if that is not done."""
        return self._call("Clear", wire.ClearRequest(), namespace, deadline)

    def close(self) -> None:
        """Ends the connections, and every call on them."""
        self.ways.close()

    def _call(self, method: str, request: object, namespace: bytes, deadline: Deadline) -> int | None:
        seconds = min(deadline.remaining(), self.settings.timeout)
        try:
            with self._asking(deadline), self.ways.hold(namespace) as way:
                blocks: int = way.connection.call(method, request, max(seconds, 1e-3)).blocks
        except Failed:
            return None
        self.breaker.succeeded()
        return blocks

    @contextmanager
    def _asking(self, deadline: Deadline) -> Iterator[None]:
        if not self.breaker.allows():
            raise Failed
        try:
            yield
        except CacheStoreError as error:
            self.counters.add("peer_failures", reason=error.reason)
            # a caller in a hurry says nothing of the node, nor does one tenant's share of it that is used up
            if deadline.at > time.monotonic() and not isinstance(error, Overloaded):
                if not self.breaker.open:
                    log.warning("[peers] %s at %s: %s", self.life.node, self.life.address, error)
                self.breaker.failed()
            raise Failed from error
