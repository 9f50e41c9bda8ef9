"""Who is in entries though nobody knew of them when these were read: after the next look at all lives it is certain."""

from collections.abc import Collection
from dataclasses import dataclass, field
from threading import Lock

from cachestore.directory.redis_lives import Lives

MOST = 1 << 14
"""Entries with somebody unknown that are kept in mind until that look."""


@dataclass(eq=False)
class Suspects:
    """The unknown, by the names of the entries that they are in. Locks itself."""

    lives: Lives
    _seen: dict[bytes, set[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __len__(self) -> int:
        return len(self._seen)

    def note(self, name: bytes, held: Collection[bytes]) -> bool:
        """Notes who of an entry's holders nobody knows; whether there is one."""
        strange = self._unknown(held)
        if not strange:
            return False
        with self._lock:
            if len(self._seen) < MOST:
                self._seen.setdefault(name, set()).update(strange)
        return True

    def take(self) -> dict[bytes, set[bytes]]:
        """Those noted so far, of whom the look at all lives that begins now will tell."""
        with self._lock:
            seen, self._seen = self._seen, {}
            return seen

    def dead(self, seen: dict[bytes, set[bytes]]) -> dict[bytes, list[bytes]]:
        """After that look: those who are unknown still."""
        unknown = {name: self._unknown(held) for name, held in seen.items()}
        return {name: gone for name, gone in unknown.items() if gone}

    def _unknown(self, held: Collection[bytes]) -> list[bytes]:
        return [incarnation for incarnation in held if not self.lives.noted(incarnation)]
