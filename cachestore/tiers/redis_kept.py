"""What Redis keeps for good of what this process wrote there, as far as it knows: bytes and ends by namespace and key.

Redis alone knows what is present, and others write and remove there, too. So this is asked again before it is the
reason to refuse anything, and what ended counts no longer.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from cachestore.block import Buffer
from cachestore.ends import Ends
from cachestore.tiers.redis_blocks import ends_at, stamp_of


class Lasting(NamedTuple):
    """One durable block, of `nbytes` until `ends`, in seconds since 1970. Another of its key is another object.

    `stamp` names what was written if that alone made the block durable: empty if it was so before.
    """

    nbytes: int
    ends: float
    stamp: bytes = b""


@dataclass(eq=False)
class Kept:
    """The durable blocks that were acknowledged and not seen to go. Thread-safe."""

    _blocks: dict[bytes, dict[bytes, Lasting]] = field(default_factory=dict)
    _nbytes: dict[bytes, int] = field(default_factory=dict)
    _ending: Ends[tuple[bytes, bytes]] = field(init=False)
    _asked: dict[bytes, float] = field(default_factory=dict)
    _missed: dict[bytes, set[bytes]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._ending = Ends(self._ends_at)

    def came(self, namespace: bytes, blocks: Mapping[bytes, Buffer], anew: Collection[bytes]) -> None:
        """These sealed blocks were acknowledged; the keys of those that were not durable before."""
        with self._lock:
            for key, data in blocks.items():
                self._remove(namespace, key)
                block = Lasting(data.nbytes, ends_at(data), stamp_of(data) if key in anew else b"")
                self._blocks.setdefault(namespace, {})[key] = block
                self._nbytes[namespace] = self._nbytes.get(namespace, 0) + block.nbytes
                if block.ends < math.inf:
                    self._ending.add(block.ends, (namespace, key))

    def went(self, namespace: bytes, blocks: Mapping[bytes, Lasting]) -> dict[bytes, Lasting]:
        """These blocks, which were there before that was asked, are gone; which of them, since some were put again."""
        with self._lock:
            held = self._blocks.get(namespace, {})
            gone = {key: block for key, block in blocks.items() if held.get(key) is block}
            for key in gone:
                self._remove(namespace, key)
            return gone

    def namespaces(self) -> list[bytes]:
        """Those that have any blocks."""
        with self._lock:
            return list(self._blocks)

    def missed(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """Somebody did not find these blocks: those that should be there are to be asked about."""
        # most were never here, and a dict answers whole
        held = self._blocks.get(namespace)
        if held is not None and not held.keys().isdisjoint(keys):
            with self._lock:
                self._missed.setdefault(namespace, set()).update(key for key in keys if key in held)

    def take_missed(self) -> dict[bytes, set[bytes]]:
        """The blocks that were missed since the last time, by namespace."""
        with self._lock:
            missed, self._missed = self._missed, {}
            return missed

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
        while (name := self._ending.due(time.time())) is not None:
            self._remove(*name)

    def _ends_at(self, ends: float, name: tuple[bytes, bytes]) -> bool:
        block = self._blocks.get(name[0], {}).get(name[1])
        return block is not None and block.ends == ends

    def _remove(self, namespace: bytes, key: bytes) -> None:
        held = self._blocks.get(namespace, {})
        block = held.pop(key, None)
        if block is not None:
            self._nbytes[namespace] -= block.nbytes
            if not held:
                del self._blocks[namespace], self._nbytes[namespace]
