"""The contract of an eviction policy: plain data in, plain data out; no clock, no input or output, no locks."""

from collections.abc import Hashable, Iterator
from typing import Protocol


class Order(Protocol):
    """The blocks of one tier in the order in which they should leave. The caller holds the lock."""

    def insert(self, name: Hashable, nbytes: int) -> None:
        """A block came into the tier."""

    def touch(self, name: Hashable) -> None:
        """A block was read. Unknown names are ignored: it may just have left."""

    def remove(self, name: Hashable) -> None:
        """A block left the tier, for whatever reason. Unknown names are ignored."""

    def victims(self) -> Iterator[Hashable]:
        """All blocks, the one to leave first in front. The order must not change while this is consumed."""


class Eviction(Protocol):
    """The settings of a policy."""

    def start(self) -> Order:
        """A fresh order for one tier."""
