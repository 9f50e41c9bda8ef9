"""The rows of `scheduling.py` about a trace: what do requests of a real service wait for?"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from report import Report

from cachestore.errors import ConfigError
from cachestore.scheduling.base import Queue
from cachestore.scheduling.fcfs import Fcfs
from cachestore.scheduling.mc_sf import McSf
from cachestore.scheduling.predictor import Predictor, Request
from cachestore.scheduling.predictor_exact import Exact
from cachestore.scheduling.predictor_history import History
from cachestore.scheduling.simulation import Arrival, Outcome, simulate

if TYPE_CHECKING:
    from scheduling import Options

TRACE = "conversation_trace.jsonl"
PAGE_TOKENS = 64
PAGES = 15_625
"""A million tokens: some eighty of the trace's prompts at a time."""

LOADS = (0.95, 1.2)
"""Time is stretched until what requests hold for as long as they run is this share of what there is meanwhile."""

AGEING = 0.05
"""In tokens a step: one in a second, if a step takes 50 ms."""

WAYS: dict[str, tuple[Callable[[], Queue], Callable[[], Predictor]]] = {
    "fcfs": (lambda: Fcfs().start(PAGE_TOKENS), Exact().start),
    "mc_sf": (lambda: McSf(ageing=0).start(PAGE_TOKENS), Exact().start),
    "mc_sf_ageing": (lambda: McSf(ageing=AGEING).start(PAGE_TOKENS), Exact().start),
    "mc_sf_history": (lambda: McSf(ageing=0).start(PAGE_TOKENS), History().start),
}
"""By row: the policy, and what predicts for it."""


def read(place: Path) -> list[Arrival]:
    """The requests of a trace in the Mooncake format, `step` still in milliseconds; ConfigError names a wrong line.

    What a request allowed is not known: the longest output of all, so that it tells a predictor nothing.
    """
    found = []
    for number, line in enumerate(place.read_text().splitlines(), 1):
        try:
            one = json.loads(line)
            found.append(tuple(int(one[name]) for name in ("timestamp", "input_length", "output_length")))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{place.name}, line {number}: needs timestamp, input_length, output_length") from error
    longest = max((output for *_, output in found), default=0)
    return [
        Arrival(sent, Request("trace", prompt, longest, output), output)
        for sent, prompt, output in sorted(found, key=lambda one: one[0])
        if output > 0
    ]


def at_load(arrivals: list[Arrival], load: float) -> list[Arrival]:
    """The same, arriving as fast or slowly as that load takes; `step` in steps."""
    needed = sum(one.output * (one.request.prompt_tokens + one.output / 2) for one in arrivals)
    first, last = arrivals[0].step, arrivals[-1].step
    stretch = needed / (PAGES * PAGE_TOKENS * load) / max(1, last - first)
    return [replace(one, step=round((one.step - first) * stretch)) for one in arrivals]


def play(way: str, arrivals: list[Arrival]) -> Outcome:
    """What becomes of the requests one way."""
    queue, predictor = WAYS[way]
    return simulate(queue(), arrivals, PAGES, PAGE_TOKENS, predictor())


def measure_trace(report: Report, options: Options, pool: Executor) -> None:
    """Rows `scheduling.trace.*`: latencies in steps, of the first requests only if `options.quick`."""
    place = options.data / TRACE if options.data else None
    if place is None or not place.is_file():
        report.skip("scheduling.trace", f"no {TRACE} (--data DIR)")
        return
    arrivals = read(place)[: 500 if options.quick else None]
    report.add("scheduling.trace.requests", len(arrivals), "requests")
    for load in LOADS:
        played = dict(zip(WAYS, pool.map(play, WAYS, repeat(at_load(arrivals, load))), strict=True))
        for way, found in played.items():
            id = f"scheduling.trace_{load:g}.{way}"
            report.add(f"{id}.total", found.total, "steps", "lower")
            report.add(f"{id}.p50", found.percentile(50), "steps", "lower")
            report.add(f"{id}.p95", found.percentile(95), "steps", "lower")
            report.add(f"{id}.longest", found.percentile(100), "steps", "lower")
            report.add(f"{id}.memory", max(found.pages) / PAGES, "of budget", "lower", bar=1.0)
            report.add(f"{id}.preempted", found.preempted, "times", "lower")
            report.add(f"{id}.short", found.errors.short / found.errors.outputs, "of outputs", "lower")
            report.add(f"{id}.error", found.errors.absolute / found.errors.tokens, "of tokens", "lower")
        saved = played["mc_sf"].total / played["fcfs"].total
        report.add(f"scheduling.trace_{load:g}.mc_sf_over_fcfs", saved, "of fcfs", "lower")
