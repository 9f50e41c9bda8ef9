"""What a node has in memory, as others are told of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachestore.index import Index, Name


class Presence(Protocol):
    """Somebody who is told what comes into memory and what leaves it, under the index's lock: it returns at once."""

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """These blocks are in memory now."""

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """These blocks are no longer in memory."""


@dataclass(frozen=True, eq=False)
class Present(Collection[tuple[bytes, bytes]]):
    """The published blocks of an index, as (namespace, key), for whoever says all of them again. Locks itself."""

    index: Index

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, tuple) or len(name) != 2:
            return False
        entry = self.index.get(Name(*name))
        return entry is not None and entry.ready

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        with self.index.changed:
            namespaces = self.index.namespaces()
        for namespace in namespaces:
            # one namespace at a time: puts and reads wait for the lock meanwhile
            with self.index.changed:
                keys = list(self.index.published(namespace).values())
            for some in keys:
                yield from ((namespace, key) for key in some)

    def __len__(self) -> int:
        with self.index.changed:
            return sum(map(self.index.count, self.index.namespaces()))
