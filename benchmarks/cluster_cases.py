"""Which clusters are simulated, and with which prompts."""

from dataclasses import dataclass
from pathlib import Path

from cluster_prompts import Workload, drawn, tiled
from cluster_run import WINDOW, Cluster, Loss, Outcome, Policies

TRACE = "conversation_trace.jsonl"
RATE = 0.25
"""Prompts a node and second: some two are under way on each."""

NODES_A_TILE = 50
"""A copy of the trace for so many nodes, which gives each memory for some 365 blocks, 25 prompts."""

DOCUMENTS, REQUESTS = 100, 240
"""For each node, where prompts are drawn."""

MEMORY = 0.1
"""Of the distinct blocks, so much there is room for."""

MANY = 500
"""Nodes from which on lives last longer, as docs/directory.md says."""


RECOVERED = 0.9
"""Of the hit rate without a loss."""


@dataclass(frozen=True)
class Case:
    """`nodes` nodes, the prompts of the trace at `place`, or drawn ones if there is none.

    `alone` is one node with the memory of all. `share` of the nodes is lost after half of the time.
    """

    nodes: int
    place: Path | None
    alone: bool = False
    share: float = 0.0

    def workload(self) -> Workload:
        """The prompts: the same ones for one node with the memory of all."""
        if self.place is None:
            return drawn(REQUESTS * self.nodes, DOCUMENTS * self.nodes, self.nodes, RATE)
        return tiled(self.place, max(1, self.nodes // NODES_A_TILE), self.nodes, RATE)


def play(case: Case) -> Outcome:
    """What becomes of its prompts."""
    workload = case.workload()
    loss = Loss(workload.seconds / 2, case.share) if case.share else None
    policies = Policies(ttl=60.0 if case.nodes >= MANY else 10.0)
    nodes = 1 if case.alone else case.nodes
    return Cluster(nodes, int(MEMORY * workload.distinct), policies).run(workload, loss)


def recovery(lost: Outcome, whole: Outcome) -> tuple[float, float]:
    """The least share of its hit rate that a cluster keeps after a loss, and after how many seconds 9/10 for good.

    `whole` is the same cluster with the same prompts and without a loss. The last window is left out: it may be short.
    """
    shares = {
        window: lost.windows[window][1] / hits
        for window, (_, hits) in sorted(whole.windows.items())[:-1]
        if hits and (window + 1) * WINDOW > lost.lost_at
    }
    last = max((window for window, share in shares.items() if share < RECOVERED), default=None)
    return min(shares.values(), default=1.0), 0.0 if last is None else (last + 1) * WINDOW - lost.lost_at
