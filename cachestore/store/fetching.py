"""How many blocks of a lower tier are fetched at once: so many bytes of them, whatever size they have.

A tier is asked by keys, and most do not know sizes beforehand. Blocks of one spec are about as large, though.
"""

from dataclasses import dataclass, field
from threading import Lock

MOST = 256
"""Blocks fetched at once: those that come may be larger than those that were seen."""

KNOWN = 1024
"""Specs whose size is remembered."""


@dataclass(eq=False)
class Batches:
    """Batches of about `nbytes`, by the largest block that was seen of a spec in a namespace. Locks itself."""

    nbytes: int
    _largest: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def saw(self, namespace: bytes, fingerprint: bytes, nbytes: int) -> None:
        """A sealed block of this spec has so many bytes."""
        at = namespace, fingerprint
        if nbytes <= self._largest.get(at, 0):
            return
        with self._lock:
            self._largest[at] = max(nbytes, self._largest.pop(at, 0))
            if len(self._largest) > KNOWN:
                del self._largest[next(iter(self._largest))]

    def blocks(self, namespace: bytes, fingerprint: bytes) -> int:
        """How many blocks of this spec to fetch at once; one as long as none was seen."""
        largest = self._largest.get((namespace, fingerprint), self.nbytes)
        return min(MOST, max(1, round(self.nbytes / largest)))
