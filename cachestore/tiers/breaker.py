"""Gives up a failing medium for a while, and tries it again by itself. Never latched."""

import time
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class Breaker:
    """Opens after `failures` in a row; lets one probe through after `first` seconds, doubling up to `longest`.

    One success closes it.
    """

    failures: int = 3
    first: float = 1.0
    longest: float = 30.0
    _failed: int = 0
    _pause: float = 0.0
    _probe_at: float = 0.0
    _probing: bool = False
    _lock: Lock = field(default_factory=Lock)

    @property
    def open(self) -> bool:
        """Whether the medium is given up now."""
        return self._failed >= self.failures

    @property
    def due(self) -> bool:
        """What `allows` would say now, which leaves a probe to whoever asks that."""
        return not self.open or time.monotonic() >= self._probe_at

    def allows(self) -> bool:
        """Whether to try. While open, True once for each probe that is due."""
        with self._lock:
            if not self.open:
                return True
            now = time.monotonic()
            if now < self._probe_at:
                return False
            self._probe_at = now + self._pause
            self._probing = True
            return True

    def succeeded(self) -> None:
        """A try went well."""
        with self._lock:
            self._failed = 0
            self._pause = 0.0
            self._probing = False

    def failed(self) -> None:
        """A try went wrong."""
        with self._lock:
            self._failed += 1
            # calls that were under way when it opened, and fail after it, say nothing new
            if self._failed == self.failures or self._probing:
                self._probing = False
                self._pause = min(self.longest, self._pause * 2 or self.first)
                self._probe_at = time.monotonic() + self._pause
