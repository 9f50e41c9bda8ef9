"""Counting. One set of counters a namespace; `Stats` over gRPC and every report read the same figures."""

from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass
class Counters:
    """Named, labelled integers. `add` is atomic; gauges go down by adding negative amounts."""

    _values: dict[tuple[str, Labels], int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds `amount` to the figure of this name and these labels."""
        at = (name, tuple(sorted((label, str(value)) for label, value in labels.items())))
        with self._lock:
            self._values[at] = self._values.get(at, 0) + amount

    def figures(self) -> Iterator[Figure]:
        """All figures, sorted, as of one moment."""
        with self._lock:
            values = dict(self._values)
        yield from sorted(Figure(name, labels, value) for (name, labels), value in values.items())


def total(figures: list[Figure], name: str, **labels: str) -> int:
    """The sum of all figures of this name that carry these labels."""
    wanted = labels.items()
    return sum(f.value for f in figures if f.name == name and wanted <= dict(f.labels).items())
