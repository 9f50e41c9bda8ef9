"""What a way of choosing workers knows, and what it must answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Candidate:
    """One worker that could take the request.

    `load` counts the requests that wait or run there. Of the prompt's full blocks `stored` lie in the store beside it
    and `sent` went through it lately, each counted from the first one on up to the first gap.
    """

    name: str
    load: int
    stored: int = 0
    sent: int = 0

    @property
    def prefix(self) -> int:
        """Blocks that need not be computed there, as far as is known."""
        return max(self.stored, self.sent)


@dataclass(frozen=True)
class Question:
    """What is known of the request: how many full blocks its prompt has, and `start`, which equal beginnings share."""

    blocks: int
    start: bytes


class Routing(Protocol):
    """A frozen dataclass of settings that chooses. It keeps no state: what there is to know is in the candidates."""

    def choose(self, candidates: Sequence[Candidate], question: Question) -> Candidate:
        """One of `candidates`, of which there is at least one."""
