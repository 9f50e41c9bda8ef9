"""How often were blocks read lately?"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from cachestore.index import Name

REMEMBERED = 1 << 16
"""Blocks whose reads are remembered; the one not read for longest is forgotten first."""


@dataclass(eq=False)
class Popularity:
    """Reads by block, of the blocks read last. Callers hold the index's lock."""

    _reads: OrderedDict[tuple[bytes, bytes], int] = field(default_factory=OrderedDict)
    """By namespace and key, as a `Name` is, which takes longer to make."""

    def read(self, namespace: bytes, keys: Sequence[bytes]) -> list[int]:
        """Counts one more read of each of these blocks; how many there were of each."""
        counts = []
        for key in keys:
            name = namespace, key
            counts.append(self._reads.pop(name, 0) + 1)
            self._reads[name] = counts[-1]
        while len(self._reads) > REMEMBERED:
            self._reads.popitem(last=False)
        return counts

    def reads(self, name: Name) -> int:
        """How often this block was read lately."""
        return self._reads.get(name, 0)
