"""First come, first served."""

from dataclasses import dataclass

from cachestore.scheduling.base import Demand
from cachestore.scheduling.ordered import Ordered


@dataclass(frozen=True)
class Fcfs:
    """Starts sequences in the order in which they arrived, while what all are predicted to need fits. No settings.

    Preempts the last that arrived. The first one is neither overtaken nor preempted, so nobody starves.
    """

    def start(self, page_tokens: int = 1) -> Ordered:
        return Ordered(_arrival, page_tokens)


def _arrival(demand: Demand) -> tuple[float, float]:
    return demand.arrived, 0.0
