"""Memory-constrained shortest first.

Whoever is predicted to end soonest starts first, as long as the memory that all will need, in every step until the last
of them ends, stays within the budget. Source: Jaillet et al., "Online Scheduling for LLM Inference with KV Cache
Constraints", arXiv 2502.07115. Ageing and preemption are ours.
"""

import math
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.scheduling.base import Demand
from cachestore.scheduling.ordered import Ordered


@dataclass(frozen=True)
class McSf:
    """Starts the sequence that is predicted to end soonest; preempts the one that is predicted to end last.

    Of those predicted to end together the one that holds least comes first.

    ageing: how many predicted tokens a sequence gains on later ones for each unit of time between their arrivals. A
        sequence is overtaken by those only that arrived before it, or at most (its prediction - theirs) / ageing
        after it. 0, as in the paper, lets those predicted to be long starve under a steady stream of short ones
    """

    ageing: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ageing) and self.ageing >= 0):
            raise ConfigError(f"scheduling.ageing = {self.ageing} must be 0 (off) or more; 1 token a second is usual")

    def start(self, page_tokens: int = 1) -> Ordered:
        ageing = self.ageing

        def rank(demand: Demand) -> tuple[float, float]:
            # all that wait age alike, so that counting from their arrival gives the same order at any time
            return demand.remaining + ageing * demand.arrived, demand.held

        return Ordered(rank, page_tokens)
