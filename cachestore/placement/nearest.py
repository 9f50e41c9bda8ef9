"""From which of its holders a block is read: the nearest, and of equally near ones one that is not busy.

Plain data in, plain data out; no clock, no input or output.
"""

from collections.abc import Sequence
from random import Random
from typing import Generic, NamedTuple, Protocol, TypeVar


class Holder(Protocol):
    """A life of a node, as a directory tells it."""

    @property
    def node(self) -> str:
        """The machine it is on."""

    @property
    def incarnation(self) -> bytes:
        """Names the process."""

    @property
    def queue(self) -> int:
        """How busy it was lately."""


H = TypeVar("H", bound=Holder)


class Here(NamedTuple):
    """Where the reader is: its node, and its own incarnation if it is a holder itself."""

    node: str = ""
    incarnation: bytes = b""


def best(holders: Sequence[H], here: Here, random: Random) -> H | None:
    """The holder in this process, else one on this node, else any; None if there is none.

    Of several the less busy of two drawn by lot: what is known of queues is a little old, and if everybody chose the
    least busy one, it would be so no longer (Mitzenmacher, The Power of Two Choices in Randomized Load Balancing,
    2001).
    """
    near = list(_nearest(holders, here).holders.values())
    return _less_busy(near, random) if near else None


def runs(found: Sequence[Sequence[H]], here: Here, random: Random) -> list[tuple[H, int]]:
    """From whom the leading blocks of a prompt are read, and how many of them one after the other.

    `found` are the holders of each block; what lies behind the first without any is not read. A run goes on as long as
    its holder has the next block and no nearer one has; where a new one begins, the holders that reach farthest are
    chosen from, so that a prompt is read in few calls.
    """
    near = [_nearest(holders, here) for holders in found]
    chosen: list[tuple[H, int]] = []
    start = 0
    while start < len(near) and near[start].holders:
        alike, end = near[start].holders, start + 1
        while end < len(near) and near[end].nearness == near[start].nearness:
            common = {name: holder for name, holder in alike.items() if name in near[end].holders}
            if not common:
                break
            alike, end = common, end + 1
        holder = _less_busy(list(alike.values()), random)
        chosen.append((holder, end - start))
        start = end
    return chosen


class _Near(NamedTuple, Generic[H]):
    """The nearest holders of a block, by incarnation: 2 in this process, 1 on this node, 0 elsewhere, -1 none."""

    nearness: int
    holders: dict[bytes, H]


def _nearest(holders: Sequence[H], here: Here) -> _Near[H]:
    nearness = [_nearness(holder, here) for holder in holders]
    most = max(nearness, default=-1)
    return _Near(
        most, {holder.incarnation: holder for holder, near in zip(holders, nearness, strict=True) if near == most}
    )


def _nearness(holder: Holder, here: Here) -> int:
    if here.incarnation and holder.incarnation == here.incarnation:
        return 2
    return int(bool(here.node) and holder.node == here.node)


def _less_busy(holders: Sequence[H], random: Random) -> H:
    return min(random.sample(holders, min(2, len(holders))), key=lambda holder: holder.queue)
