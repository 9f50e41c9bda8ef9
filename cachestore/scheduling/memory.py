"""How much memory will these sequences need, if each runs to its predicted end?"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from cachestore.scheduling.base import Demand


def by_end(demands: Iterable[Demand]) -> list[Demand]:
    """The same, those that end last first."""
    return sorted(demands, key=lambda demand: demand.remaining, reverse=True)


def peak(demands: Sequence[Demand], page_tokens: int) -> int:
    """The most pages that they ever hold together, each taking one token a step until it ends and frees what it holds.

    `demands` are in the order of `by_end`. Between two ends memory only grows, so only the steps at which one ends
    are looked at. Source: Jaillet et al., arXiv 2502.07115; whole pages are ours.
    """
    most = pages = 0
    parts: list[int] = []
    for count, demand in enumerate(demands, 1):
        whole, part = divmod(demand.held + page_tokens - 1, page_tokens)
        pages += whole
        insort(parts, part)
        # `remaining` steps from now all seen so far still run: each has grown by `grown` pages, and by one more where
        # its last page was full enough for the rest to overflow
        grown, rest = divmod(demand.remaining, page_tokens)
        overflowing = count - bisect_left(parts, page_tokens - rest)
        most = max(most, pages + count * grown + overflowing)
    return most
