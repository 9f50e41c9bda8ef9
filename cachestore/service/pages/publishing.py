"""The transport of a worker that owns pages: what it puts into the store goes into pages of its tier as well."""

import logging
from collections.abc import Sequence

from cachestore.codecs.base import Codec
from cachestore.deadline import Deadline
from cachestore.errors import CacheStoreError
from cachestore.service.convert_put import Reservation
from cachestore.service.pages.node_pages import NodePages
from cachestore.service.pages.sink import PageSink
from cachestore.service.shared.sessions import ATTACH_SECONDS
from cachestore.service.transport import Asked, Sink, Transport
from cachestore.tiers.breaker import Breaker
from cachestore.tiers.gpu_tier import GpuTier
from cachestore.wire import store_pb2

log = logging.getLogger(__name__)


class Publishing:
    """Follows `cachestore.service.transport.Transport`: for puts alone, whose payload takes the first of `ways` too.

    A store that cannot be told of pages, since it is elsewhere or away, is left alone for a while: then puts are those
    of `ways`.
    """

    name = "publishing"

    def __init__(self, pages: NodePages, tier: GpuTier, ways: Sequence[Transport]) -> None:
        self._pages = pages
        self._tier = tier
        self._ways = ways
        self._namespace = b""
        self._breaker = Breaker(failures=1)

    def read(self, asked: Asked, deadline: Deadline) -> None:
        return None

    def put(self, reservation: Reservation, codec: Codec, deadline: Deadline) -> Sink | None:
        namespace = self._told(deadline)
        for way in self._ways:
            sink = way.put(reservation, codec, deadline)
            if sink is not None:
                if not namespace:
                    return sink
                return PageSink(sink, reservation, self._tier, namespace, self.register, codec, deadline)
        return None

    def register(self, deadline: Deadline) -> None:
        """Tells the store of pages that came or went. Never raises for what the store does not do."""
        if not deadline.remaining() or not self._breaker.allows():
            return
        try:
            self._pages.sync(timeout=min(ATTACH_SECONDS, deadline.remaining()))
            self._breaker.succeeded()
        except CacheStoreError as error:
            self._failed(error)

    def release(self, request: store_pb2.ReleaseRequest, timeout: float) -> None:
        self._ways[0].release(request, timeout)

    def close(self) -> None:
        """Forgets its pages: what others delete from now on, nobody tells of. Closing twice is allowed."""
        self._pages.close()
        if self._namespace:
            self._tier.drop(self._namespace, None, "cleared")

    def _told(self, deadline: Deadline) -> bytes:
        """The id of the namespace that pages are of; empty while the store cannot be told of any."""
        if not deadline.remaining() or not self._breaker.allows():
            return b""
        try:
            self._namespace = self._pages.namespace(timeout=min(ATTACH_SECONDS, deadline.remaining()))
        except CacheStoreError as error:
            self._failed(error)
            return b""
        self._breaker.succeeded()
        return self._namespace

    def _failed(self, error: CacheStoreError) -> None:
        log.warning("the store of this node is not told of pages now: %s", error)
        self._breaker.failed()
