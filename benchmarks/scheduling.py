"""How near does shortest-first come to the best schedule there could have been?

Requests follow the laws of "Online Scheduling for LLM Inference with KV Cache Constraints" (Jaillet et al.,
arXiv 2502.07115), so few of them that an integer program finds the least total latency in hindsight. A ratio counts
only where the solver proved it. In `online` rows requests arrive one after the other. Rows of a trace need `--data`.

    python benchmarks/scheduling.py [--quick] [--json] [--rows PREFIX ...] [--data DIR]
"""

import os
import statistics
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import scheduling_trace
from report import Report, add_rows, check_rows
from scheduling_optimum import Optimum, optimum

from cachestore.scheduling.fcfs import Fcfs
from cachestore.scheduling.mc_sf import McSf
from cachestore.scheduling.predictor import Request
from cachestore.scheduling.simulation import Arrival, Outcome, simulate

INSTANCES = 40
SECONDS = 120.0
"""The solver's time for one instance."""

SEED = 2502_07115


@dataclass(frozen=True)
class Options:
    """`quick` looks at three tiny instances, and at the first requests of a trace: for a look and for tests.

    `small` takes instances of 6 to 10 requests, of which the solver proves each in seconds, not in minutes.
    """

    quick: bool = False
    data: Path | None = None
    small: bool = False


@dataclass(frozen=True)
class Instance:
    """Requests that nobody knows before they come, and the memory in tokens."""

    arrivals: list[Arrival]
    budget: int


@dataclass(frozen=True)
class Result:
    """One instance: what each policy made of it, and the optimum if the solver found any schedule."""

    mc_sf: Outcome
    fcfs: Outcome
    best: Optimum | None


def write(random: Random, budgets: tuple[int, int], counts: tuple[int, int], online: bool) -> Instance:
    """An instance by the paper's laws: prompts of 1 to 5 tokens, outputs of any length that fits, even.

    All come at once, or by a Poisson process whose rate is between 0.5 and 1.5 a step, cut to whole steps.
    """
    budget, count, rate = random.randint(*budgets), random.randint(*counts), random.uniform(0.5, 1.5)
    arrivals, time = [], 0.0
    for _ in range(count):
        prompt = random.randint(1, 5)
        output = random.randint(1, budget - prompt)
        time += random.expovariate(rate) if online else 0.0
        arrivals.append(Arrival(int(time), Request("paper", prompt, output, output), output))
    return Instance(arrivals, budget)


def solve(instance: Instance, seconds: float = SECONDS) -> Result:
    """Both policies, the paper's way without ageing, and the optimum."""
    mc_sf = simulate(McSf(ageing=0).start(), instance.arrivals, instance.budget)
    fcfs = simulate(Fcfs().start(), instance.arrivals, instance.budget)
    known = min(mc_sf.total, fcfs.total)
    return Result(mc_sf, fcfs, optimum(instance.arrivals, instance.budget, known, seconds))


def silence() -> None:
    """The solver prints to the process' standard output whatever it is told; that belongs to the report."""
    os.dup2(2, 1)


def add(report: Report, results: Iterable[Result], suffix: str, bar: float, reach: float | None) -> None:
    """The rows of one kind of instances; ratios are those of proven instances alone."""
    results = list(results)
    proven = [(result, result.best.total) for result in results if result.best is not None and result.best.proven]
    report.add(f"scheduling.proven{suffix}", len(proven) / len(results), "of instances", "higher")
    gaps = [1.0 if result.best is None else result.best.gap for result in results]
    report.add(f"scheduling.gap{suffix}", max(gaps), "of total, the solver's worst", "lower")
    fullest = max(max(result.mc_sf.pages) / result.mc_sf.budget for result in results)
    report.add(f"scheduling.memory{suffix}", fullest, "of budget", "lower", bar=1.0)
    if not proven:
        report.skip(f"scheduling.mc_sf{suffix}", "the solver proved no optimum in its time")
        return
    mc_sf = [result.mc_sf.total / best for result, best in proven]
    fcfs = [result.fcfs.total / best for result, best in proven]
    report.add(f"scheduling.mc_sf{suffix}", statistics.mean(mc_sf), "of optimum", "lower", bar=bar, reach=reach)
    report.add(f"scheduling.mc_sf.worst{suffix}", max(mc_sf), "of optimum", "lower")
    report.add(f"scheduling.fcfs{suffix}", statistics.mean(fcfs), "of optimum", "lower")
    worse = statistics.mean(fcfs) / statistics.mean(mc_sf)
    report.add(f"scheduling.fcfs_over_mc_sf{suffix}", worse, "of mc_sf", "higher", bar=1.15)


def measure_optimum(report: Report, options: Options, pool: Executor) -> None:
    """Rows beside the optimum."""
    random, many = Random(SEED), 3 if options.quick else INSTANCES
    budgets, counts = ((12, 18), (6, 10)) if options.small else ((14, 22), (8, 12))
    if options.quick:
        budgets, counts = (10, 12), (4, 6)
    kinds = [[write(random, budgets, counts, online) for _ in range(many)] for online in (False, True)]
    at_once, online = [pool.map(solve, kind) for kind in kinds]
    add(report, at_once, "", bar=1.10, reach=1.06)
    add(report, online, ".online", bar=1.15, reach=None)


def measure_large(report: Report, options: Options, pool: Executor) -> None:
    """Rows `*.large`: instances of the paper's own size, too large for the solver, so that only policies compare."""
    random, many = Random(SEED), 3 if options.quick else 200
    for online, suffix in ((False, ".large"), (True, ".large_online")):
        ratios = []
        for _ in range(many):
            instance = write(random, (30, 50), (40, 60), online)
            totals = [
                simulate(policy.start(), instance.arrivals, instance.budget).total for policy in (Fcfs(), McSf(0))
            ]
            ratios.append(totals[0] / totals[1])
        report.add(f"scheduling.fcfs_over_mc_sf{suffix}", statistics.mean(ratios), "of mc_sf", "higher", bar=1.15)


ROWS: dict[str, Callable[[Report, Options, Executor], None]] = {
    "scheduling.mc_sf": measure_optimum,
    "scheduling.fcfs_over_mc_sf.large": measure_large,
    "scheduling.trace": scheduling_trace.measure_trace,
}
"""What measures which rows: the names of the first ones."""


def run(options: Options, rows: Sequence[str] = ("",)) -> Report:
    """All rows, or those measured along with one that starts with one of `rows`, on as many processes as cores."""
    report, cores = Report("scheduling"), len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=silence) as pool:
        for name, measure in ROWS.items():
            if name.startswith(tuple(rows)):
                measure(report, options, pool)
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny instances, and only the first requests of a trace")
    add_rows(parser)
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help="directory of data files")
    given = parser.parse_args()
    check_rows(parser, given.rows, ROWS)
    run(Options(given.quick, given.data), given.rows).print(given.json)


if __name__ == "__main__":
    main()
