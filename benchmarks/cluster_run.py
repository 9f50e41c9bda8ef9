"""A simulated cluster: many nodes, one directory and one gateway, under virtual time.

Requests come one after the other at their times. The gateway asks the directory once where the whole prompt is and
chooses a worker by that and by the queues, all as the real one does. The worker reads the leading blocks that any node
has, from whom `placement.nearest` says; the rest it computes and keeps. What it read from others it keeps, too, if it
reads it often.

Blocks are there when the request comes that computes them, as in `cachestore replay`: so a cluster of one node hits
exactly what a replay of the policy alone does.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from cluster_node import NAMESPACE, Node
from cluster_prompts import Prompt, Workload

from cachestore.deadline import Deadline
from cachestore.directory.base import Where
from cachestore.directory.memory import Board, MemoryDirectory
from cachestore.eviction.base import Eviction
from cachestore.eviction.lru import Lru
from cachestore.metrics import total
from cachestore.placement.nearest import runs
from cachestore.placement.shares import Shares
from gateway.routing.base import Candidate, Question, Routing
from gateway.routing.prefix_load import PrefixLoad

COMPUTE_SECONDS = 0.05
"""Of a block of 512 tokens: 10,000 tokens a second."""

ANSWER_SECONDS = 0.02
"""Of a token of the answer."""

WINDOW = 60.0
"""Seconds of virtual time over which a hit rate is told."""

PATIENCE = 3600.0


def fair() -> Shares:
    """Shares in blocks; some two prompts a node are no crowd."""
    return Shares(spare=32)


@dataclass(frozen=True)
class Policies:
    """What decides in a cluster. Blocks of other nodes are copied when they are read for the `copy_after`th time.

    Without `shares` only queues say who is busy.
    """

    eviction: Eviction = field(default_factory=Lru)
    routing: Routing = field(default_factory=PrefixLoad)
    copy_after: int = 1
    shares: Callable[[], Shares] | None = fair
    ttl: float = 10.0


@dataclass(frozen=True)
class Loss:
    """A share of all nodes that is lost at a time, for good."""

    at: float
    share: float


@dataclass
class Outcome:
    """What became of all blocks: `own` were read on the worker's node, `others` from other nodes, `computed` the rest.

    `copied` of the others' were kept, `failed` were asked for in vain, of nodes that are gone. `served` are the blocks
    that each node's memory gave, of those that are left; `asked` are round trips to the directory, and `holders` say of
    each block in it at the end how many nodes have it. `windows` are blocks and hits by time, `distinct` is how many
    blocks there are, and `waited` are seconds from when prompts came until they were computed.
    """

    requests: int = 0
    blocks: int = 0
    own: int = 0
    others: int = 0
    computed: int = 0
    copied: int = 0
    failed: int = 0
    waited: float = 0.0
    lost_at: float = 0.0
    asked: int = 0
    distinct: int = 0
    holders: list[int] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    windows: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def hits(self) -> int:
        return self.own + self.others

    @property
    def hit_rate(self) -> float:
        return self.hits / self.blocks

    @property
    def imbalance(self) -> float:
        """The most that a node served over the mean."""
        return max(self.served) * len(self.served) / sum(self.served)


@dataclass(eq=False)
class Cluster:
    """`count` nodes with `capacity` blocks of memory in all."""

    count: int
    capacity: int
    policies: Policies = Policies()
    seed: int = 0
    now: float = 0.0
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.board = Board(clock=lambda: self.now)
        self.gateway = MemoryDirectory(self.board, self.policies.ttl)
        self.nodes: dict[str, Node] = {}
        for number in range(self.count):
            share = self.capacity // self.count + (number < self.capacity % self.count)
            name, part = f"node{number:04d}", MemoryDirectory(self.board, self.policies.ttl)
            self.nodes[name] = Node(name, share, self.policies.eviction.start(), part)
            self.nodes[name].join()
        self.shares = self.policies.shares() if self.policies.shares else None
        self.candidates = {name: Candidate(name, 0) for name in self.nodes}
        self.ends: list[tuple[float, str]] = []
        self.beat = 0.0

    def run(self, workload: Workload, loss: Loss | None = None) -> Outcome:
        """Serves all prompts, and loses nodes in the middle if it is told to."""
        for prompt in workload.prompts():
            if loss is not None and prompt.at >= loss.at:
                self._lose(loss.share)
                self.outcome.lost_at = loss.at
                loss = None
            self._pass(prompt.at)
            self._serve(prompt)
        outcome = self.outcome
        outcome.served = [node.served for node in self.nodes.values() if not node.lost]
        outcome.holders = [len(holders) for holders in self.board.holders.values()]
        outcome.asked = total(self.gateway.figures(), "directory_lookups")
        outcome.distinct = workload.distinct
        return outcome

    def _lose(self, share: float) -> None:
        for name in self.random.sample(sorted(self.nodes), max(1, round(share * self.count))):
            self.nodes[name].lost = True
            del self.candidates[name]

    def _pass(self, until: float) -> None:
        """Lets time go by: requests end, and nodes say that they live."""
        while self.ends and self.ends[0][0] <= until:
            self._loaded(heapq.heappop(self.ends)[1], -1)
        while self.beat <= until:
            self.now, self.beat = self.beat, self.beat + self.gateway.every
            for node in self.nodes.values():
                if not node.lost:
                    node.part.step()
        self.now = until

    def _loaded(self, name: str, more: int) -> None:
        node = self.nodes[name]
        node.load += more
        if not node.lost:
            self.candidates[name] = Candidate(name, node.load)

    def _serve(self, prompt: Prompt) -> None:
        keys, outcome = prompt.keys, self.outcome
        found = self.gateway.lookup(NAMESPACE, keys, Deadline.after(PATIENCE))
        node = self.nodes[self._choose(keys, found)]
        theirs: list[int] = []
        hits = self._read(node, keys, found, theirs)
        popular = node.popular([keys[index] for index in theirs], self.policies.copy_after)
        copies = [index for index, often in zip(theirs, popular, strict=True) if often]
        outcome.copied += node.keep(keys, copies)
        node.keep(keys, range(hits, len(keys)))
        outcome.requests += 1
        outcome.blocks += len(keys)
        outcome.own += hits - len(theirs)
        outcome.others += len(theirs)
        outcome.computed += len(keys) - hits
        blocks, before = outcome.windows.get(window := int(self.now / WINDOW), (0, 0))
        outcome.windows[window] = blocks + len(keys), before + hits
        node.busy = max(self.now, node.busy) + COMPUTE_SECONDS * (len(keys) - hits)
        outcome.waited += node.busy - self.now
        heapq.heappush(self.ends, (node.busy + ANSWER_SECONDS * prompt.output, node.name))
        self._loaded(node.name, +1)

    def _choose(self, keys: Sequence[bytes], found: Sequence[Where]) -> str:
        """The worker whose turn it is."""
        candidates, shares = dict(self.candidates), self.shares
        for name, count in stored(found).items():
            if name not in candidates:
                continue
            if shares and len(candidates) > 1 and shares.over(name, len(self.candidates), self.now):
                # not even by lot: among the idle, equal beginnings are drawn to where they were first
                del candidates[name]
            else:
                candidates[name] = Candidate(name, candidates[name].load, count)
        return self.policies.routing.choose(list(candidates.values()), Question(len(keys), keys[0])).name

    def _read(self, node: Node, keys: Sequence[bytes], found: Sequence[Where], theirs: list[int]) -> int:
        """How many leading blocks are had from anybody; `theirs` become the indices of those that others gave."""
        holders = [where.holders for where in found]
        at = 0
        while True:
            for life, count in runs(holders[at:], node.here, self.random):
                got = self.nodes[life.node].read(keys[at : at + count])
                if self.shares:
                    self.shares.gave(life.node, got, self.now)
                if life.node != node.name:
                    theirs.extend(range(at, at + got))
                at += got
                if got < count:
                    self.outcome.failed += count - got
                    # who did not give what it should have is not asked again for this prompt
                    holders = [tuple(one for one in some if one is not life) for some in holders]
                    break
            else:
                return at


def stored(found: Sequence[Where]) -> Counter[str]:
    """How many blocks from the first one on each node has, up to its first gap."""
    counts: Counter[str] = Counter()
    before: set[str] | None = None
    for where in found:
        names = {life.node for life in where.holders}
        before = names if before is None else before & names
        if not before:
            break
        counts.update(before)
    return counts
