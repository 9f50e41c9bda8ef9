"""A store's figures, for people and for programs."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from cachestore.cli.output import human_bytes, table
from cachestore.metrics import PUT_OUTCOMES, READ_OUTCOMES, Figure, total


def sums(figures: Sequence[Figure]) -> dict[str, bool]:
    """Whether everything asked and everything offered is accounted for."""
    have = list(figures)
    return {
        "reads": total(have, "read_blocks") == sum(total(have, name) for name in READ_OUTCOMES),
        "puts": total(have, "put_blocks") == sum(total(have, name) for name in PUT_OUTCOMES),
        "tiers": all(
            total(have, "tier_added", tier=tier) == figure.value + total(have, "tier_removed", tier=tier)
            for figure in have
            if figure.name == "tier_blocks" and (tier := figure.label("tier"))
        ),
    }


def as_json(figures: Sequence[Figure]) -> dict[str, Any]:
    """All figures as they are, and the sums."""
    rows = [{"name": figure.name, "labels": dict(figure.labels), "value": figure.value} for figure in figures]
    return {"figures": rows, "sums_hold": sums(figures)}


def as_tables(figures: Sequence[Figure]) -> Iterator[Table]:
    """One table a subject."""
    have = list(figures)
    holds = sums(have)
    groups = {
        f"reads (sums {'hold' if holds['reads'] else 'DO NOT HOLD'})": ("read_",),
        f"puts (sums {'hold' if holds['puts'] else 'DO NOT HOLD'})": ("put_",),
        f"tiers (sums {'hold' if holds['tiers'] else 'DO NOT HOLD'})": ("tier_",),
        "transports": ("transport_",),
    }
    prefixes = tuple(prefix for group in groups.values() for prefix in group)
    for title, starts in groups.items():
        yield _table(title, [figure for figure in have if figure.name.startswith(starts)])
    yield _table("other", [figure for figure in have if not figure.name.startswith(prefixes)])


def _table(title: str, figures: Sequence[Figure]) -> Table:
    made = table(title, "figure", "of", ">value")
    for figure in figures:
        of = ", ".join(f"{label} {value}" for label, value in figure.labels)
        value = human_bytes(figure.value) if figure.name.endswith("_bytes") else f"{figure.value:,}"
        made.add_row(figure.name, of, value)
    return made
