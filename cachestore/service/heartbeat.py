"""How a worker stays in the cluster map: it says again and again that it is there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event, Thread

from cachestore.errors import CacheStoreError, PermissionDenied
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member

_log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two heartbeats."""

TTL = 4.0
"""Seconds after which a member that fell silent is forgotten."""

TIMEOUT = 1.0
"""Seconds that one heartbeat, or the farewell, may take."""


@dataclass(eq=False)
class Heartbeat:
    """Registers `member` with `store`, with the queue length that `queue` tells, until it is closed.

    A store that is away is asked again with the next beat; a store that comes back empty knows the member after one.
    One that refuses it, such as for a name that another identity's member has, is asked again too; the log says why.
    """

    store: RemoteStore
    member: Member
    queue: Callable[[], int]
    every: float = EVERY
    ttl: float = TTL
    _over: Event = field(default_factory=Event)
    _refused: bool = False
    _thread: Thread | None = None

    def open(self) -> None:
        """Starts beating, the first time at once."""
        self._over.clear()
        self._thread = Thread(target=self._beat, name="cachestore-heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops, and leaves the cluster map if the store answers. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._over.set()
        thread.join()
        self._tell(0.0)

    def _beat(self) -> None:
        self._tell(self.ttl)
        while not self._over.wait(self.every):
            self._tell(self.ttl)

    def _tell(self, ttl: float) -> None:
        try:
            self.store.register(replace(self.member, queue=self.queue()), ttl, timeout=TIMEOUT)
            self._refused = False
        except PermissionDenied as error:
            if not self._refused:
                _log.warning("this worker is not in the cluster map: %s", error)
            self._refused = True
        except CacheStoreError:
            # the next beat tells it; a farewell that is lost is made up for by the time to live
            return
