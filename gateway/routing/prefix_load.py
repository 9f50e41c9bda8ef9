"""The longest prefix and the shortest queue, weighed against each other."""

from collections.abc import Sequence
from dataclasses import dataclass

from cachestore.errors import ConfigError
from gateway.routing.base import Candidate, Question
from gateway.routing.sticky import drawn


@dataclass(frozen=True)
class PrefixLoad:
    """The lowest cost: `prefix` x the share of the prompt to compute + `load` x the queue over the mean queue.

    A worker whose queue is more than `hot` times the mean, counting this request, is not chosen for what it has of the
    prompt: its prefix counts for nothing, so that one popular prompt cannot pile up on one worker. Among equals, which
    all are while nobody has anything of the prompt, rendezvous hashing decides.
    """

    prefix: float = 1.0
    load: float = 0.5
    hot: float = 2.0

    def __post_init__(self) -> None:
        for name in ("prefix", "load"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"gateway.routing.{name} must be 0 or more, got {getattr(self, name)}")
        if not self.hot >= 1:
            raise ConfigError(f"gateway.routing.hot must be at least 1, got {self.hot}")

    def choose(self, candidates: Sequence[Candidate], question: Question) -> Candidate:
        mean = sum(candidate.load for candidate in candidates) / len(candidates) + 1

        def cost(candidate: Candidate) -> float:
            queue = (candidate.load + 1) / mean
            known = candidate.prefix / question.blocks if question.blocks and queue <= self.hot else 0.0
            return self.prefix * (1 - known) + self.load * queue

        costs = [cost(candidate) for candidate in candidates]
        least = min(costs)
        best = [candidate for candidate, at in zip(candidates, costs, strict=True) if at <= least + 1e-9]
        return max(best, key=lambda candidate: drawn(candidate.name, question.start))
