"""The contract of an eviction policy: plain data in, plain data out; no clock, no input or output, no locks."""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol


class Order(Protocol):
    """The blocks of one namespace in one tier, as a prefix tree, and who should leave it first.

    A block is a **leaf** while no child of it is in the order; only leaves are evicted. The caller holds the lock.
    """

    def insert(self, name: Hashable, nbytes: int, parent: Hashable | None = None) -> None:
        """A block came into the tier; `parent` is the block before it in its chain, there or not, None if unknown.

        One that is there already counts as read. A parent that would close a circle counts as unknown.
        """

    def touch(self, names: Sequence[Hashable]) -> None:
        """The leading blocks of one chain were read, in its order. Unknown names are ignored: they may just have left.

        Each is from now on known as the parent of the next.
        """

    def remove(self, name: Hashable) -> None:
        """A block left the tier for another reason than eviction. Unknown names are ignored."""

    def evict(self, stays: Callable[[Hashable], bool]) -> Hashable | None:
        """Takes out the leaf that should leave first among those that need not stay; None if there is none.

        `stays` may be asked about any leaf, and more than once.
        """

    def __len__(self) -> int:
        """How many blocks are in the order."""


class Eviction(Protocol):
    """The settings of a policy."""

    def start(self) -> Order:
        """A fresh order for one namespace in one tier."""
