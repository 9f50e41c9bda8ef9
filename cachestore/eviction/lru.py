"""Least recently used."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cachestore.eviction.tree import Tree


@dataclass(frozen=True)
class Lru:
    """Evicts the leaf that was not read for longest. No settings."""

    def start(self) -> "LruOrder":
        return LruOrder()


@dataclass
class LruOrder:
    """Blocks by last use, oldest first; of a chain the deeper block is the older one."""

    _blocks: OrderedDict[Hashable, None] = field(default_factory=OrderedDict)
    _tree: Tree = field(default_factory=Tree)

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        self._tree.add(name, parent)
        self._blocks[name] = None
        self._blocks.move_to_end(name)
        if parent in self._blocks:
            self._blocks.move_to_end(parent)

    def touch(self, names: Sequence[Hashable]) -> None:
        for parent, name in pairwise(names):
            if name in self._blocks:
                self._tree.add(name, parent)
        for name in reversed(names):
            if name in self._blocks:
                self._blocks.move_to_end(name)

    def remove(self, name: Hashable) -> None:
        if self._blocks.pop(name, self) is None:
            self._tree.remove(name)

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        for name in self._blocks:
            if self._tree.leaf(name) and not stays(name):
                self.remove(name)
                return name
        return None

    def __len__(self) -> int:
        return len(self._blocks)
