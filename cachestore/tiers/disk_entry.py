"""One block on the disk, as it is known in memory."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from cachestore.seal import DURABLE, PARENT_BYTES, CorruptBlock, Header
from cachestore.tiers.base import Departure
from cachestore.tiers.disk_files import UNIT


def room(nbytes: int) -> int:
    """What a file of `nbytes` takes."""
    return -(-nbytes // UNIT) * UNIT


@dataclass(eq=False, slots=True)
class DiskEntry:
    """One block. `ends` is in seconds since 1970; `users` read it just now."""

    namespace: bytes
    key: bytes
    nbytes: int
    ends: float = math.inf
    durable: bool = False
    parent: bytes | None = None
    name: Hashable = None
    users: int = 0
    settled: bool = True
    """False for a durable block that may not survive a loss of power yet."""

    @property
    def short(self) -> bytes:
        """What a child's header calls it."""
        return self.key[:PARENT_BYTES]

    def departure(self, why: str, reason: str = "") -> Departure:
        """That it left."""
        return Departure(self.namespace, self.key, self.nbytes, why, self.durable, reason)

    @classmethod
    def of(cls, namespace: bytes, key: bytes, nbytes: int, header: Header) -> "DiskEntry":
        """The entry of a sealed block of `nbytes`; CorruptBlock if it is another one, or not all of it."""
        if (header.namespace, header.key) != (namespace, key):
            raise CorruptBlock("identity")
        if header.size + header.payload_bytes != nbytes:
            raise CorruptBlock("truncated")
        return cls(
            namespace,
            key,
            nbytes,
            header.expires / 1000 if header.expires else math.inf,
            bool(header.flags & DURABLE),
            header.parent if any(header.parent) else None,
        )


def chains(found: Sequence[DiskEntry | None]) -> Iterator[list[DiskEntry]]:
    """The runs of blocks of which each is by its own word the child of the one before."""
    chain: list[DiskEntry] = []
    for entry in found:
        if chain and (entry is None or entry.parent != chain[-1].short):
            yield chain
            chain = []
        if entry is not None:
            chain.append(entry)
    if chain:
        yield chain
