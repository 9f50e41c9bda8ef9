"""Policies and capacities side by side, with the yardsticks next to each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cachestore.replay.alone import Alone
from cachestore.replay.base import Advance, Outcome, Replayer
from cachestore.replay.trace import Trace
from cachestore.replay.yardsticks import infinite, optimum

LRU = "lru"
SMALLEST_SHARE = 200
"""Without capacities given, they range from this part of all blocks that differ to all of them."""


@dataclass(frozen=True)
class Row:
    """One policy at one capacity, in blocks; rates are shares of the blocks of all requests.

    `lru` and `optimum` are those of one tier alone, and `gap` is the share of the way between them: None where that is
    no way, and where further tiers stand behind the first. `tiers` are hit rates by tier, empty for a policy alone;
    `wrong`, `not_kept` and `sums_hold` are those of `Outcome`.
    """

    capacity: int
    policy: str
    hit_rate: float
    lru: float
    optimum: float
    infinite: float
    gap: float | None
    blocks_per_second: int
    tiers: dict[str, float]
    wrong: int
    not_kept: int
    sums_hold: bool


def compare(
    trace: Trace, policies: Sequence[str], capacities: Sequence[int], replay: Replayer, advance: Advance
) -> Iterator[Row]:
    """A row for every capacity and policy, as soon as it is known."""
    alone = replay if isinstance(replay, Alone) else Alone()
    for capacity in capacities:
        lru = alone(trace, LRU, capacity, advance)
        best = optimum(trace, capacity)
        for policy in policies:
            known = policy == LRU and replay is alone
            outcome = lru if known else replay(trace, policy, capacity, advance)
            yield _row(trace, policy, capacity, outcome, lru, best)


def replays(policies: Sequence[str], capacities: Sequence[int], replay: Replayer) -> int:
    """How often `compare` goes through the whole trace."""
    return len(capacities) * (len(policies) + (LRU not in policies or not isinstance(replay, Alone)))


def spread(trace: Trace, count: int) -> list[int]:
    """`count` capacities or fewer, evenly spaced on a logarithmic scale, up to all blocks that differ."""
    exponents = [index / (count - 1) for index in range(count)]
    sizes = [trace.nodes * SMALLEST_SHARE ** (exponent - 1) for exponent in exponents]
    return sorted({max(1, round(size)) for size in sizes})


def _row(trace: Trace, policy: str, capacity: int, outcome: Outcome, lru: Outcome, best: int) -> Row:
    way = best - lru.hits
    return Row(
        capacity, policy,
        hit_rate=outcome.hits / trace.blocks,
        lru=lru.hits / trace.blocks,
        optimum=best / trace.blocks,
        infinite=infinite(trace) / trace.blocks,
        gap=(outcome.hits - lru.hits) / way if way and len(outcome.tiers) < 2 else None,
        blocks_per_second=round(trace.blocks / outcome.seconds),
        tiers={tier: hits / trace.blocks for tier, hits in outcome.tiers.items()},
        wrong=outcome.wrong, not_kept=outcome.not_kept, sums_hold=outcome.sums_hold,
    )  # fmt: skip
