"""The shortest queue, wherever the prefix may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.routing.base import Candidate, Question
from gateway.routing.sticky import drawn


@dataclass(frozen=True)
class LeastLoaded:
    """The worker with the fewest requests; among equals the one that rendezvous hashing prefers."""

    def choose(self, candidates: Sequence[Candidate], question: Question) -> Candidate:
        least = min(candidate.load for candidate in candidates)
        idle = [candidate for candidate in candidates if candidate.load == least]
        return max(idle, key=lambda candidate: drawn(candidate.name, question.start))
