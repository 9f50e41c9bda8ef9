"""What Redis keeps for good of what this process wrote there, as far as it knows: bytes and ends by namespace and key.

Redis alone knows what is present, and others write and remove there, too. So this is asked again before it is the
reason to refuse anything, and what ended counts no longer.
"""

import heapq
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from cachestore.block import Buffer
from cachestore.tiers.redis_blocks import ends_at


class Lasting(NamedTuple):
    """One durable block, of `nbytes` until `ends`, in seconds since 1970. Another of its key is another object."""

    nbytes: int
    ends: float


@dataclass(eq=False)
class Kept:
    """The durable blocks that were acknowledged and not seen to go. Thread-safe."""

    _blocks: dict[bytes, dict[bytes, Lasting]] = field(default_factory=dict)
    _nbytes: dict[bytes, int] = field(default_factory=dict)
    _ending: list[tuple[float, bytes, bytes, Lasting]] = field(default_factory=list)
    _asked: dict[bytes, float] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def came(self, namespace: bytes, blocks: Mapping[bytes, Buffer]) -> None:
        """These sealed blocks were acknowledged."""
        with self._lock:
            for key, data in blocks.items():
                self._remove(namespace, key)
                block = Lasting(data.nbytes, ends_at(data))
                self._blocks.setdefault(namespace, {})[key] = block
                self._nbytes[namespace] = self._nbytes.get(namespace, 0) + block.nbytes
                if block.ends < math.inf:
                    heapq.heappush(self._ending, (block.ends, namespace, key, block))

    def went(self, namespace: bytes, blocks: Mapping[bytes, Lasting]) -> None:
        """These blocks, which were there before that was asked, are gone; those put again since are not."""
        with self._lock:
            for key, block in blocks.items():
                if self._blocks.get(namespace, {}).get(key) is block:
                    self._remove(namespace, key)

    def there(self, namespace: bytes, keys: Sequence[bytes] | None = None) -> dict[bytes, Lasting]:
        """The blocks of these keys, or of all."""
        with self._lock:
            self._expire()
            held = self._blocks.get(namespace, {})
            return dict(held) if keys is None else {key: held[key] for key in keys if key in held}

    def nbytes(self, namespace: bytes) -> int:
        """Bytes of all blocks of a namespace."""
        with self._lock:
            self._expire()
            return self._nbytes.get(namespace, 0)

    def due(self, namespace: bytes, every: float) -> bool:
        """Whether nobody asked about this namespace in the last `every` seconds; then the caller does."""
        with self._lock:
            now = time.monotonic()
            if now - self._asked.get(namespace, -math.inf) < every:
                return False
            self._asked[namespace] = now
            return True

    def _expire(self) -> None:
        while self._ending and self._ending[0][0] <= time.time():
            _, namespace, key, block = heapq.heappop(self._ending)
            if self._blocks.get(namespace, {}).get(key) is block:
                self._remove(namespace, key)

    def _remove(self, namespace: bytes, key: bytes) -> None:
        held = self._blocks.get(namespace, {})
        block = held.pop(key, None)
        if block is not None:
            self._nbytes[namespace] -= block.nbytes
            if not held:
                del self._blocks[namespace], self._nbytes[namespace]
