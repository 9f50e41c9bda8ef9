"""Counting. One set of counters a namespace; `Stats` over gRPC and every report read the same figures."""

import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock

Labels = tuple[tuple[str, str], ...]

READ_OUTCOMES = ("read_hits", "read_misses", "read_corrupt", "read_expired", "read_open")
"""What becomes of a block that was read: `read_blocks` is their sum."""

PUT_OUTCOMES = (
    "put_stored",
    "put_already_exists",
    "put_in_progress",
    "put_kept_first",
    "put_not_kept",
    "put_refused",
    "put_failed",
    "put_aborted",
    "put_open",
)
"""What becomes of a block that was put: `put_blocks` is their sum."""


@dataclass(frozen=True, order=True)
class Figure:
    """One number: its name, its labels sorted by name, and its value at the time of asking."""

    name: str
    labels: Labels
    value: int

    def label(self, name: str) -> str:
        """The value of one label, empty if the figure has no such label."""
        return dict(self.labels).get(name, "")


TIME_BOUNDS = tuple(16 * 4**power for power in range(12))
"""Upper bounds of the buckets of a time histogram, in microseconds: 16 us to 67 s; what took longer is in none."""


@dataclass
class Counters:
    """Named, labelled integers. `add` is atomic; gauges go down by adding negative amounts."""

    _values: dict[tuple[str, Labels], int] = field(default_factory=dict)
    _times: dict[str, list[int]] = field(default_factory=dict)
    """By operation: how often it was done, microseconds in all, then the buckets."""
    _lock: Lock = field(default_factory=Lock)

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds `amount` to the figure of this name and these labels."""
        at = (name, tuple(sorted((label, str(value)) for label, value in labels.items())))
        with self._lock:
            self._values[at] = self._values.get(at, 0) + amount

    def took(self, operation: str, seconds: float) -> None:
        """One more `operation` was done, in so many seconds."""
        microseconds = int(seconds * 1e6)
        bucket = bisect_left(TIME_BOUNDS, microseconds)
        with self._lock:
            times = self._times.setdefault(operation, [0] * (2 + len(TIME_BOUNDS)))
            times[0] += 1
            times[1] += microseconds
            if bucket < len(TIME_BOUNDS):
                times[2 + bucket] += 1

    @contextmanager
    def timed(self, operation: str) -> Iterator[None]:
        """Counts what is done inside as one `operation`, however it ends."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.took(operation, time.monotonic() - begun)

    def figures(self) -> Iterator[Figure]:
        """All figures, sorted, as of one moment.

        A time histogram is `time_count`, `time_sum_us` and, cumulative, `time_bucket` with `le` in microseconds.
        """
        with self._lock:
            values = dict(self._values)
            times = {operation: list(counts) for operation, counts in self._times.items()}
        figures = [Figure(name, labels, value) for (name, labels), value in values.items()]
        for operation, (count, microseconds, *buckets) in times.items():
            label = ("op", operation)
            figures += [Figure("time_count", (label,), count), Figure("time_sum_us", (label,), microseconds)]
            for bound, below in zip(TIME_BOUNDS, accumulate(buckets), strict=True):
                figures.append(Figure("time_bucket", (("le", str(bound)), label), below))
        yield from sorted(figures)


def total(figures: list[Figure], name: str, **labels: str) -> int:
    """The sum of all figures of this name that carry these labels."""
    wanted = labels.items()
    return sum(f.value for f in figures if f.name == name and wanted <= dict(f.labels).items())
