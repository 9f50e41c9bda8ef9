"""Consecutive blocks that are in the same place, as the runs of an answer."""

from collections.abc import Sequence
from itertools import groupby

from cachestore.store.base import Run


def runs_of(tiers: Sequence[str], node: str) -> tuple[Run, ...]:
    """Consecutive equal tiers of one node as runs."""
    return runs_at([(tier, node) for tier in tiers])


def runs_at(places: Sequence[tuple[str, str]]) -> tuple[Run, ...]:
    """Consecutive equal places, each a tier and its node, as runs."""
    return tuple(Run(sum(1 for _ in alike), *place) for place, alike in groupby(places))
