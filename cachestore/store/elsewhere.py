"""What other nodes have, as tiers of this one: looked at behind the tiers that are this node's alone."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cachestore.deadline import Deadline
from cachestore.tiers.base import ColdTier


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

    def nodes(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[str]:
        """From which nodes the first of these blocks would be read, as far as they are there without a gap."""


def nodes(tier: ColdTier, namespace: bytes, keys: Sequence[bytes], deadline: Deadline, here: str) -> list[str]:
    """The nodes from which the first of these blocks would be read in any tier, of which most are `here`."""
    if isinstance(tier, Borrowed):
        return tier.nodes(namespace, keys, deadline)
    return [here] * tier.leading(namespace, keys, deadline)
