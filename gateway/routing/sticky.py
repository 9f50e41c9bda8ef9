"""Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998).

Every worker draws a number from the request's beginning, and the highest wins. A worker that comes or goes moves only
what is its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from gateway.routing.base import Candidate, Question


def drawn(name: str, start: bytes) -> bytes:
    """The number that the worker `name` draws for requests beginning with `start`."""
    return sha256(len(start).to_bytes(4, "big") + start + name.encode()).digest()


@dataclass(frozen=True)
class Sticky:
    """Equal beginnings go to the same worker, whatever its load."""

    def choose(self, candidates: Sequence[Candidate], question: Question) -> Candidate:
        return max(candidates, key=lambda candidate: drawn(candidate.name, question.start))
