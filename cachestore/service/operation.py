"""What operates a node among others: the contract, what is told over it, and its form on the wire."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain
from cachestore.service import convert
from cachestore.service.members import Member
from cachestore.wire import operation_pb2 as wire

CONTRACT = 1
"""The version of the wire; releases of one and the next understand each other."""


class State(StrEnum):
    """Whether a node takes puts, is handing over what it has, or has left the others."""

    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class TierFacts(NamedTuple):
    """One tier of a node; `blocks` is 0 where the medium does not tell."""

    name: str
    used: int
    capacity: int
    blocks: int
    healthy: bool


class Unmet(NamedTuple):
    """Another node that one did not reach, or that refused it, and why."""

    node: str
    address: str
    why: str


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself, and which nodes it knows of, itself among them.

    `address` is where others find it; empty, as its `incarnation`, for one that is alone. `age` is in seconds, `clock`
    in seconds since 1970. `alike` has digests of what must be alike on all nodes, by section. Of `sampled` blocks in
    its memory the directory knows `announced`. Where Ray runs it, Ray's control plane may be away for `outage` seconds
    until Ray ends it; 0 elsewhere. `unmet` are those of the others that it did not reach, if it was to try.
    """

    node: str
    address: str
    incarnation: bytes
    state: State
    age: float
    tiers: Sequence[TierFacts]
    release: str
    contract: int
    clock: float
    alike: Mapping[str, bytes]
    nodes: Sequence[Member]
    directory: bool
    sampled: int = 0
    announced: int = 0
    outage: float = 0.0
    unmet: Sequence[Unmet] = ()


@dataclass
class Moved:
    """How far a node is with handing over. Blocks are durable, or else hot: read at least once lately.

    `elsewhere` others had already, `cold` ones were not read lately. `why` says why a drain was given up.
    """

    state: State = State.SERVING
    durable_moved: int = 0
    durable_left: int = 0
    hot_moved: int = 0
    hot_left: int = 0
    elsewhere: int = 0
    cold: int = 0
    bytes_moved: int = 0
    done: bool = False
    why: str = field(default="")


class Operator(Protocol):
    """One node as its operator sees it, and as the nodes see it that hand blocks over to it."""

    def facts(self, samples: int, deadline: Deadline) -> NodeFacts:
        """What the node is; so many of its blocks are looked for in the directory."""

    def meet(self, deadline: Deadline) -> Sequence[Unmet]:
        """Asks each of the others for something; those that it did not reach, or that refused it."""

    def drain(self, seconds: float, *, force: bool) -> Moved:
        """Begins to leave, within `seconds`, also where durable blocks found no other place if `force` says so.

        How far it is, also with the zero `seconds` of somebody who only asks. While it is leaving, what is asked for
        again counts as far as it is more urgent: the earlier deadline, and `force`.
        """

    def rebalance(self, seconds: float, nbytes: int) -> Moved:
        """Begins to hand over so many bytes of what is read most, within `seconds`; zero only asks."""

    def forget(self, node: str, deadline: Deadline) -> None:
        """The directory forgets a dead node. InvalidArgument if it knows of none, Unavailable if it cannot be told."""

    def take(
        self, namespace: bytes, incarnation: bytes, chain: Chain, deadline: Deadline, *, durable: bool
    ) -> list[bool]:
        """Brings blocks here that the node of this life has; which are here now, for good where that is asked."""

    def give_up(self, namespace: bytes, incarnation: bytes, chain: Chain) -> None:
        """Blocks that the node of this life had taken here for good need not be kept for it: its put has failed."""


def facts_message(facts: NodeFacts) -> wire.NodeResponse:
    """For the wire."""
    return wire.NodeResponse(
        node=facts.node, address=facts.address, incarnation=facts.incarnation, state=facts.state,
        age_ms=round(1000 * facts.age),
        tiers=[
            wire.NodeResponse.Tier(
                name=tier.name, used_bytes=tier.used, capacity_bytes=tier.capacity, blocks=tier.blocks,
                healthy=tier.healthy,
            )
            for tier in facts.tiers
        ],
        release=facts.release, contract=facts.contract, clock_ms=round(1000 * facts.clock), alike=facts.alike,
        nodes=map(convert.member_message, facts.nodes), directory=facts.directory, sampled=facts.sampled,
        announced=facts.announced, outage_ms=round(1000 * facts.outage),
        unmet=[wire.NodeResponse.Unmet(node=each.node, address=each.address, why=each.why) for each in facts.unmet],
    )  # fmt: skip


def facts(message: wire.NodeResponse) -> NodeFacts:
    """As a node told them."""
    return NodeFacts(
        message.node, message.address, message.incarnation, _state(message.state), message.age_ms / 1000,
        [TierFacts(t.name, t.used_bytes, t.capacity_bytes, t.blocks, t.healthy) for t in message.tiers],
        message.release, message.contract, message.clock_ms / 1000, dict(message.alike),
        [convert.member(member) for member in message.nodes], message.directory, message.sampled, message.announced,
        message.outage_ms / 1000, [Unmet(each.node, each.address, each.why) for each in message.unmet],
    )  # fmt: skip


COUNTS = ("durable_moved", "durable_left", "hot_moved", "hot_left", "elsewhere", "cold", "bytes_moved")


def moved_message(moved: Moved) -> wire.MovedResponse:
    """For the wire."""
    counts = {name: getattr(moved, name) for name in COUNTS}
    return wire.MovedResponse(state=moved.state, done=moved.done, why=moved.why, **counts)


def moved(message: wire.MovedResponse) -> Moved:
    """As a node told it."""
    counts = {name: getattr(message, name) for name in COUNTS}
    return Moved(state=_state(message.state), done=message.done, why=message.why, **counts)


def _state(word: str) -> State:
    # a later release may know others, in which a node takes no puts either
    return State(word) if word in list(State) else State.DRAINING


def seconds(milliseconds: int) -> float:
    """How long a node may move blocks; InvalidArgument for more than a day."""
    if milliseconds > 86_400_000:
        raise InvalidArgument(f"deadline_ms must be a day at most, got {milliseconds}")
    return milliseconds / 1000
