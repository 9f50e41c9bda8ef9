"""The rows of `store.py` about `cachestore replay --index-only`, on the conversation trace."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from report import Report

from cachestore.replay.alone import Alone
from cachestore.replay.comparing import compare
from cachestore.replay.trace import read_trace

if TYPE_CHECKING:
    from store import Options

TRACE = "conversation_trace.jsonl"
POLICY, YARDSTICK = "prefix", "lru"
BARS = {3_000: (0.25, 0.40), 10_000: (0.10, 0.25)}
"""Capacities in blocks, and the share of the gap between LRU and the optimum that is to be closed there."""

FAST_AT = 10_000


def _trace(report: Report, options: Options, ids: list[str]) -> Path | None:
    """Where the trace is; None, and these rows are skipped, if it is not there."""
    place = options.data / TRACE if options.data else None
    if place is not None and place.is_file():
        return place
    for id in ids:
        report.skip(id, f"no {TRACE} (--data DIR)")
    return None


def measure_gaps(report: Report, options: Options) -> None:
    """Rows `replay.gap_*`: the share of the gap between LRU and the optimum that the policy `prefix` closes."""
    place = _trace(report, options, [f"replay.gap_{capacity}" for capacity in BARS])
    if place is not None:
        for row in compare(read_trace(str(place)), [POLICY], list(BARS), Alone(), lambda blocks: None):
            bar, reach = BARS[row.capacity]
            if row.gap is None:
                report.skip(f"replay.gap_{row.capacity}", "LRU hits all that can be hit")
            else:
                report.add(f"replay.gap_{row.capacity}", row.gap, "of gap", bar=bar, reach=reach)


def measure_speed(report: Report, options: Options) -> None:
    """Row `replay.speed`: blocks a second, index only, with `prefix`; beside it the same with LRU."""
    place = _trace(report, options, ["replay.speed"])
    if place is None:
        return
    trace, replay = read_trace(str(place)), Alone()
    seconds: dict[str, list[float]] = {POLICY: [], YARDSTICK: []}
    for _ in range(3 if options.quick else 9):
        for policy, taken in seconds.items():
            taken.append(replay(trace, policy, FAST_AT, lambda blocks: None).seconds)
    speeds = {policy: trace.blocks / statistics.median(taken) for policy, taken in seconds.items()}
    report.add("replay.speed", speeds[POLICY], "blocks/s", bar=200_000, reach=1_000_000)
    report.add(f"replay.speed.{YARDSTICK}", speeds[YARDSTICK], "blocks/s")
