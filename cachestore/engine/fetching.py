"""Fetch a run of stored blocks, or compute them again? Whichever was measured to be faster.

What is not measured yet, or too seldom, is fetched: the first answer of a tier takes a connection with it. A tier that
lost the comparison is tried nevertheless once in a while, so that a slow answer does not speak against it for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from cachestore.metrics import Counters
from cachestore.store.base import Run

PROBE = 8
"""Every so many runs of a tier that would be computed, one is fetched."""
SURE = 3
"""Measurements of a tier, below which they say nothing against it."""
DECAY = 0.5
"""The weight of a measurement after each one that follows."""
ALIKE = 1e-4
"""Relative variance under which amounts are too much alike to tell fixed cost from cost for each."""


class Segment(NamedTuple):
    """Blocks `first` up to, not including, `end` of a chain, to be fetched; None seconds: not predicted."""

    first: int
    end: int
    tier: str
    seconds: float | None = None


@dataclass
class Line:
    """Seconds as a fixed cost and one for each unit: least squares over measurements with decaying weights."""

    count: int = 0
    weight: float = 0.0
    amounts: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        """One more measurement."""
        self.count += 1
        self.weight = self.weight * DECAY + 1
        self.amounts = self.amounts * DECAY + amount
        self.seconds = self.seconds * DECAY + seconds
        self.squares = self.squares * DECAY + amount * amount
        self.products = self.products * DECAY + amount * seconds

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return self.count > 0

    def fit(self) -> tuple[float, float]:
        """The fixed cost and that for each unit, neither below zero."""
        spread = self.weight * self.squares - self.amounts**2
        if spread > ALIKE * self.amounts**2:
            each = (self.weight * self.products - self.amounts * self.seconds) / spread
            fixed = (self.seconds - each * self.amounts) / self.weight
            if each >= 0 and fixed >= 0:
                return fixed, each
        return 0.0, self.seconds / self.amounts


@dataclass
class Fetching:
    """Measures, predicts and decides; several threads may use it. Without `recompute` everything is fetched.

    `counters`: fetch_runs by tier and choice (`fetch`, `compute`, `probe`); for what was predicted and then done,
    predicted_us, took_us and error_us (how far off, either way) by `what`: a tier, or `compute`.
    """

    counters: Counters
    block_tokens: int
    recompute: bool = True
    _compute: Line = field(default_factory=Line)
    _tiers: dict[str, Line] = field(default_factory=dict)
    _refused: dict[str, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def computed(self, tokens: int, seconds: float) -> None:
        """A step with so many tokens of prompts took so long."""
        with self._lock:
            predicted = self._at(self._compute, tokens)
            self._compute.add(tokens, seconds)
        self._count("compute", predicted, seconds)

    def fetched(self, segment: Segment, blocks: int, seconds: float) -> None:
        """`blocks` blocks of a segment came in so many seconds."""
        if not blocks:
            return
        with self._lock:
            self._tiers.setdefault(segment.tier, Line()).add(blocks, seconds)
        if blocks == segment.end - segment.first:
            self._count(segment.tier, segment.seconds, seconds)

    def decide(self, runs: Sequence[Run], first: int) -> list[Segment]:
        """Which of the runs, which follow each other from block `first` on, are to be fetched."""
        segments = []
        for run in runs:
            with self._lock:
                choice, seconds = self._decide(run)
            self.counters.add("fetch_runs", tier=run.tier, choice=choice)
            if choice != "compute":
                segments.append(Segment(first, first + run.blocks, run.tier, seconds))
            first += run.blocks
        return segments

    def _decide(self, run: Run) -> tuple[str, float | None]:
        line = self._tiers.get(run.tier, Line())
        fetch = self._at(line, run.blocks)
        if fetch is None or line.count < SURE or not self._compute.known or not self.recompute:
            return "fetch", fetch
        # what a step costs anyway is no reason to compute these tokens or not
        if fetch <= self._compute.fit()[1] * run.blocks * self.block_tokens:
            self._refused[run.tier] = 0
            return "fetch", fetch
        self._refused[run.tier] = self._refused.get(run.tier, 0) + 1
        if self._refused[run.tier] < PROBE:
            return "compute", None
        self._refused[run.tier] = 0
        return "probe", fetch

    @staticmethod
    def _at(line: Line, amount: float) -> float | None:
        if not line.known:
            return None
        fixed, each = line.fit()
        return fixed + each * amount

    def _count(self, what: str, predicted: float | None, took: float) -> None:
        if predicted is not None:
            self.counters.add("predicted_us", int(predicted * 1e6), what=what)
            self.counters.add("took_us", int(took * 1e6), what=what)
            self.counters.add("error_us", int(abs(predicted - took) * 1e6), what=what)
