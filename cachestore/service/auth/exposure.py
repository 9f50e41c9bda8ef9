"""A server that anybody could reach says so, again and again."""

import logging
from threading import Event, Thread

from cachestore.service.settings import ServiceSettings

EVERY = 60.0
"""Seconds between two warnings."""

_log = logging.getLogger(__name__)


class Exposure:
    """Warns for as long as a server under `settings` is open, if these expose it; `exposed` is shown in figures."""

    def __init__(self, settings: ServiceSettings, every: float = EVERY) -> None:
        self.exposed = settings.exposed
        self._target = settings.target
        self._every = every
        self._over = Event()
        self._thread: Thread | None = None

    def open(self) -> None:
        """Begins to warn, if there is something to warn of."""
        if self.exposed and self._thread is None:
            self._warn()
            self._over.clear()
            self._thread = Thread(target=self._remind, name="cachestore-exposure", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends it. Closing twice is allowed."""
        thread, self._thread = self._thread, None
        self._over.set()
        if thread is not None:
            thread.join()

    def _remind(self) -> None:
        while not self._over.wait(self._every):
            self._warn()

    def _warn(self) -> None:
        _log.warning(
            "service.insecure: whoever reaches %s can read and write caches, or overhear those who do; "
            "set service.tls_cert, service.tls_key and service.identities",
            self._target,
        )
