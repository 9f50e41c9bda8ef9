"""A node that starts while Redis is away: it serves what it holds, and takes its part once Redis can be reached.

Whoever starts a cluster wants to hear of a wrong address at once, and gets an error. A node that is started again, or
that joins, must not stay away because Redis is.
"""

import logging
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Self

from cachestore.cluster.peers import Peers
from cachestore.errors import CacheStoreError, Unavailable
from cachestore.store.tiered import TieredStore

FIRST_SECONDS, MOST_SECONDS = 0.5, 10.0
"""How soon it is tried again at first, and at last."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Healing:
    """Opens `peers` and what is left of `store`: at once, or, if the store is patient, as soon as it can."""

    store: TieredStore
    peers: Peers | None
    _waiting: bool = False
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def open(self) -> None:
        """Opens the directory, the store being open. ConfigError, and Unavailable unless that is patient."""
        if self.peers is not None:
            try:
                self.peers.open()
            except Unavailable as error:
                if not self.store.patient:
                    raise
                log.warning("[directory] this node is alone for now: %s", error)
                self._waiting = True
        if self._waiting or self.store.unreached:
            self._thread = Thread(target=self._heal, name="cachestore-healing", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Tries no more, and ends what was opened. Closing twice is allowed."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self.peers is not None:
            self.peers.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _heal(self) -> None:
        wait = FIRST_SECONDS
        while not self._over.wait(wait):
            if self.store.reach_again() and self._found():
                return
            wait = min(MOST_SECONDS, 1.5 * wait)

    def _found(self) -> bool:
        if not self._waiting:
            return True
        assert self.peers is not None
        try:
            self.peers.open()
        except CacheStoreError as error:
            log.info("[directory] this node is still alone: %s", error)
            return False
        log.warning("[directory] this node is one of several from now on")
        self._waiting = False
        return True
