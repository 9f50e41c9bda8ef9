"""What goes wrong with a store is told in the log once: an engine would say it again with every step, for hours."""

import logging
from dataclasses import dataclass

from cachestore.errors import CacheStoreError


@dataclass(eq=False)
class Complaints:
    """Of one kind of work, which `what` names; safe for use by several threads. All failures are counted elsewhere."""

    log: logging.Logger
    what: str
    _last: str = ""

    def failed(self, error: CacheStoreError) -> None:
        """Told, unless the last was of the same kind."""
        if error.reason != self._last:
            self._last = error.reason
            self.log.warning("%s, the store could not go on: %s (told once, and counted)", self.what, error)

    def went_well(self) -> None:
        """From now on a failure is news again."""
        if self._last:
            self._last = ""
            self.log.warning("the store goes on, where %s", self.what)
