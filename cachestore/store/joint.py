"""Blocks that several puts write together, each some head groups of them, as the ranks of a tensor-parallel model do.

1. The first put that names head groups opens the block. Others join it, unless one of their groups is another's.
2. Each writes its share by itself: a place of its own in the block's memory, with a plane table of its own.
3. A commit makes the share final. The one with which all are there lays them together and publishes the block.
4. Whoever gives its share up, lets its time pass, or sends what does not hold fails the block for all. Nothing of it
   was visible; the others are told when they commit.
5. What was committed waits for what is missing until the last of the deadlines of those who joined.
6. The memory stays the block's until the last of them let go of it: bytes on their way do no harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cachestore.deadline import Deadline
from cachestore.ends import Ends
from cachestore.errors import InvalidArgument
from cachestore.index import Entry, Name
from cachestore.store.base import Durability
from cachestore.store.laying import Layout, OpenBlock, layout_of
from cachestore.store.plan import BlockPlan
from cachestore.store.removal import take_back

if TYPE_CHECKING:
    from cachestore.store.tiered import TieredStore


def check_groups(groups: range | None, plans: Sequence[BlockPlan], durability: Durability) -> range | None:
    """The head groups that a put of these blocks writes of each; None where those are all there are.

    InvalidArgument unless every block has all of them, and nothing more is asked than that the block is there.
    """
    if groups is None:
        return None
    if groups.step != 1 or not groups or groups.start < 0:
        raise InvalidArgument(f"groups must be a non-empty range of step 1, got {groups}")
    if durability is not Durability.CACHE:
        raise InvalidArgument(
            "durability: no single put of some head groups can say that a block is kept; put it as `cache`, and once "
            "it is there put it again as `durable`, of which nothing is written"
        )
    # by identity: the blocks of a put share their planes
    counts = {id(plan.planes): 1 + max(plane.group for plane in plan.planes) for plan in plans}
    fewest = min(counts.values(), default=groups.stop)
    if groups.stop > fewest:
        raise InvalidArgument(f"groups must lie in the {fewest} head groups that every block has, got {groups}")
    return None if len(groups) == max(counts.values(), default=0) else groups


class Joint(OpenBlock):
    """One block that puts of head groups write together.

    `claimed` are the head groups that they write or have written, `shares` what is final. `ends` is the last of their
    deadlines, in monotonic seconds. All of it changes under the index's lock.
    """

    def __init__(self, entry: Entry, plan: BlockPlan, layout: Layout) -> None:
        super().__init__(entry, plan, layout)
        self.claimed: list[range] = []
        self.shares: list[Share] = []
        self.ends = 0.0
        self.given_up = False
        self._room = layout.start

    @property
    def all_there(self) -> bool:
        """Whether every plane belongs to a share that is final."""
        return sum(len(share.numbers) for share in self.shares) == len(self.layout.planes)

    def share(self, groups: range) -> Share:
        """The share of these head groups, none of which may be claimed."""
        self.claimed.append(groups)
        share = Share(self, groups, self._room)
        self._room += share.layout.nbytes - share.layout.start
        return share

    def lay(self) -> None:
        """Makes one block of the shares, all of which are there; what coding left free between them is closed."""
        for share in sorted(self.shares, key=lambda share: share.at):
            rows, at = share.table(), share.at - self.layout.start
            if at != self.end:
                np.copyto(self._payload[self.end : self.end + share.end], self._payload[at : at + share.end])
            rows["offset"] += np.uint64(self.end)
            self._table[share.numbers] = rows
            self.written |= set(share.numbers.tolist())
            self.end += share.end


class Share(OpenBlock):
    """The planes of a joint block that one put writes, numbered among themselves, from byte `at` of the slot on.

    `numbers` says which planes of the block they are.
    """

    def __init__(self, joint: Joint, groups: range, at: int) -> None:
        layout, self.numbers = joint.layout.part(groups)
        super().__init__(joint.entry, joint.plan, layout)
        self.joint = joint
        self.at = at
        self._payload = joint.entry.slot.bytes[at : at + layout.nbytes - layout.start]


@dataclass(eq=False)
class JointBlocks:
    """Those of one store that are open. Callers hold the index's lock, but for `expire`."""

    tiered: TieredStore
    _ending: Ends[Name] = field(init=False)

    def __post_init__(self) -> None:
        self._ending = Ends(self._ends_at)

    def joinable(self, name: Name, fingerprint: bytes, plan: BlockPlan, groups: range) -> Joint | None:
        """The open block of this name, if it is the one that is planned and nobody writes one of these groups."""
        joint = self._open(name)
        if joint is None or joint.entry.fingerprint != fingerprint or joint.plan != plan:
            return None
        apart = all(groups.stop <= other.start or other.stop <= groups.start for other in joint.claimed)
        return joint if apart else None

    def join(self, joint: Joint, groups: range, deadline: Deadline) -> Share:
        """The share of a put that ends by then."""
        self.tiered.index.use(joint.entry)
        if deadline.at > joint.ends:
            joint.ends = deadline.at
            self._ending.add(joint.ends, joint.entry.name)
        return joint.share(groups)

    def finish(self, share: Share) -> Joint | None:
        """Makes a share final that is all there; the block, if it was the last, which is its put's from now on."""
        share.joint.shares.append(share)
        if share.joint.all_there:
            return share.joint
        self.tiered.index.leave(share.entry)
        return None

    def give_up(self, block: OpenBlock) -> bool:
        """A put lets go of a share, or of a block; whether that is how the block ends, whose entry then must go."""
        joint = block.joint if isinstance(block, Share) else block
        assert isinstance(joint, Joint)
        self.tiered.index.leave(joint.entry)
        return self._end(joint)

    def published(self, block: OpenBlock) -> None:
        """A block is there, and its last put lets go of it."""
        if isinstance(block, Joint):
            self.tiered.index.leave(block.entry)

    def expire(self) -> None:
        """Gives up the blocks that waited for their last share as long as anybody would."""
        over = []
        with self.tiered.index.changed:
            while (name := self._ending.due(time.monotonic())) is not None:
                joint = self._open(name)
                # with all shares there it is being published, and its last put sees to it
                if joint is not None and not joint.all_there and self._end(joint):
                    over.append(joint.entry)
        take_back(self.tiered, over)

    def _end(self, joint: Joint) -> bool:
        if joint.given_up:
            return False
        joint.given_up = True
        self.tiered.journals.closed(joint, published=False)
        if joint.shares and not joint.all_there:
            self.tiered.counters(joint.entry.name.namespace).add("blocks_incomplete")
        return True

    def _open(self, name: Name) -> Joint | None:
        block = self.tiered.journals.open(name)
        return block if isinstance(block, Joint) else None

    def _ends_at(self, ends: float, name: Name) -> bool:
        # another block of this name may have come since
        joint = self._open(name)
        return joint is not None and joint.ends == ends


def own_plans(plans: Sequence[BlockPlan], groups: range | None) -> list[BlockPlan]:
    """What a put of these head groups writes of each block; all of it for None."""
    if groups is None:
        return list(plans)
    # by identity: the blocks of a put share their planes, and go on doing so
    known = {id(plan.planes): plan.planes for plan in plans}
    own = {same: layout_of(planes).part(groups).layout.planes for same, planes in known.items()}
    return [BlockPlan(plan.key, plan.token_count, own[id(plan.planes)], plan.short) for plan in plans]
