"""Least recently used."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lru:
    """Evicts the block that was not read for longest. No settings."""

    def start(self) -> "LruOrder":
        return LruOrder()


@dataclass
class LruOrder:
    """Blocks by last use, oldest first."""

    _blocks: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)

    def insert(self, name: Hashable, nbytes: int) -> None:
        self._blocks[name] = None
        self._blocks.move_to_end(name)

    def touch(self, name: Hashable) -> None:
        if name in self._blocks:
            self._blocks.move_to_end(name)

    def remove(self, name: Hashable) -> None:
        self._blocks.pop(name, None)

    def victims(self) -> Iterator[Hashable]:
        return iter(self._blocks)
