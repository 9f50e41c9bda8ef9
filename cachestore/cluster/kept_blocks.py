"""The blocks that this node keeps in its memory for good, and for whom: several nodes do so together."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cachestore.index import Entry, Index, Name
from cachestore.seal import CorruptBlock, Header
from cachestore.tiers.ledger import Ledger

RETURN_SECONDS = 30.0
"""A block that was removed here is not kept again for so long: who offers it may not have heard of that yet."""


@dataclass(eq=False, slots=True)
class Kept:
    """One block. `others` are lives known to keep it, too; it is kept while anybody relies on it.

    That is who was told so by a put here (`promised`), puts that are under way, and nodes that had it taken here, by
    their lives (`claims`): also when they are dead, since what they were told holds.
    """

    entry: Entry
    others: set[bytes] = field(default_factory=set)
    claims: set[bytes] = field(default_factory=set)
    promised: bool = False
    puts: int = 0
    looked: float = field(default_factory=time.monotonic)
    """When it was last seen to who else keeps it."""

    @property
    def wanted(self) -> bool:
        """Whether anybody relies on it."""
        return self.promised or self.puts > 0 or bool(self.claims)


@dataclass(eq=False)
class KeptBlocks:
    """Keeps at most `most` bytes. Callers hold the index's lock. Follows `store.presence.Presence`."""

    index: Index
    ledger: Ledger
    most: int
    _kept: dict[bytes, dict[bytes, Kept]] = field(default_factory=dict)
    _nbytes: int = 0
    _removed: dict[Name, tuple[float, bytes]] = field(default_factory=dict)
    """What was removed: until when that is remembered, and as what it was written. What is put anew is another."""

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self._nbytes

    def get(self, name: Name) -> Kept | None:
        """The block of this name."""
        return self._kept.get(name.namespace, {}).get(name.key)

    def names(self, namespace: bytes) -> list[Name]:
        """All of a namespace."""
        return [Name(namespace, key) for key in self._kept.get(namespace, ())]

    def __iter__(self) -> Iterator[Kept]:
        return (kept for some in self._kept.values() for kept in some.values())

    def add(self, entry: Entry) -> Kept | None:
        """Keeps a published block; None if that would be too much."""
        kept = self.get(entry.name)
        if kept is not None:
            return kept
        if self._nbytes + entry.slot.nbytes > self.most:
            return None
        self.index.use(entry)
        kept = self._kept.setdefault(entry.name.namespace, {})[entry.name.key] = Kept(entry)
        self._nbytes += entry.slot.nbytes
        self.ledger.came(entry.name.namespace, entry.slot.nbytes, durable=True)
        return kept

    def remove(self, name: Name, why: str) -> bool:
        """Keeps a block no longer; whether it was kept."""
        kept = self._kept.get(name.namespace, {}).pop(name.key, None)
        if kept is None:
            return False
        nbytes = kept.entry.slot.nbytes
        self._nbytes -= nbytes
        self.ledger.went(name.namespace, nbytes, why, durable=True)
        kept.entry.durable = False
        kept.entry.cold.discard(self.ledger.tier)
        self.index.leave(kept.entry)
        return True

    def lift(self, name: Name) -> Kept | None:
        """Takes out a block that is to be laid into another entry at once."""
        return self._kept.get(name.namespace, {}).pop(name.key, None)

    def lay(self, kept: Kept, entry: Entry) -> None:
        """A block that was lifted is this published entry from now on, whoever relies on it."""
        old, kept.entry = kept.entry, entry
        self.index.use(entry)
        self._kept.setdefault(entry.name.namespace, {})[entry.name.key] = kept
        self._nbytes += entry.slot.nbytes - old.slot.nbytes
        self.ledger.went(old.name.namespace, old.slot.nbytes, "replaced", durable=True)
        self.ledger.came(entry.name.namespace, entry.slot.nbytes, durable=True)
        self.index.leave(old)

    def returns(self, entry: Entry) -> bool:
        """Whether this very block was removed here so lately that it must not come back."""
        until, stamp = self._removed.get(entry.name, (0.0, b""))
        return until > time.monotonic() and stamp == _stamp(entry)

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        pass

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        now = time.monotonic()
        while self._removed and next(iter(self._removed.values()))[0] < now:
            del self._removed[next(iter(self._removed))]
        for key in keys:
            name = Name(namespace, key)
            kept = self.get(name)
            if kept is not None:
                self._removed[name] = now + RETURN_SECONDS, _stamp(kept.entry)
                self.remove(name, "ttl" if kept.entry.ends <= now else "deleted")


def _stamp(entry: Entry) -> bytes:
    """What tells one writing of a block from another; empty of one that went bad."""
    try:
        header = Header.parse(entry.slot.bytes)
    except CorruptBlock:
        return b""
    return header.writer + header.sequence.to_bytes(8, "little")
