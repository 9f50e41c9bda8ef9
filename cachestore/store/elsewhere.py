"""What other nodes have, as tiers of this one: looked at behind the tiers that are this node's alone."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cachestore.deadline import Deadline
from cachestore.tiers.base import ColdTier, Found


class Elsewhere(Protocol):
    """Other nodes, whose blocks can be read here."""

    def tier(self, fingerprint: bytes) -> ColdTier:
        """What they have of one spec, as a tier that may be `Borrowed`; an empty fingerprint is for `clear` alone."""


@runtime_checkable
class Borrowed(Protocol):
    """A tier in other nodes' keeping. Whoever asks it for blocks may be told that they are gone: then others are asked.

    Nothing is written to it: blocks come to a node by being put or read there.
    """

    @property
    def copy_after(self) -> int:
        """With its so manieth read a block gets a copy in this node's memory."""

    def stream(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> Generator[Found, None, None]:
        """The first of these blocks, one after the other, up to one that nobody has or that is corrupt.

        While its taker is busy with one, those behind it are on their way. Closing it ends the read there.
        """

    def nodes(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[str]:
        """From which nodes the first of these blocks would be read, as far as they are there without a gap."""


@dataclass(eq=False)
class Lent:
    """Blocks of a read that come from other nodes, the one numbered `at` next.

    `as_of` is what `removals` said before they were asked for: what is removed while it is on its way may not stay.
    """

    blocks: Generator[Found, None, None]
    at: int
    as_of: int

    def take(self) -> Found:
        """The next one; None if it is not to be had."""
        self.at += 1
        return next(self.blocks, None)


def nodes(tier: ColdTier, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, here: str) -> list[str]:
    """The nodes from which the first of these blocks would be read in any tier, of which most are `here`."""
    if isinstance(tier, Borrowed):
        return tier.nodes(namespace, keys, deadline)
    return [here] * tier.leading(namespace, keys, deadline)
