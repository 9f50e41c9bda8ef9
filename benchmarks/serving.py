"""How fast is the serving system, beside what transformers does by itself and beside a cold start?

Both sides of a ratio are measured in turn in one run; the figure is the median of the rounds' ratios. The model is made
here, with random weights, and large enough that computing is what takes the time. Rows about latency run through real
processes: a store, decode workers, a prefill worker. Rows that need what is not there are skipped, and say so.

    python benchmarks/serving.py [--quick] [--json] [--rows PREFIX ...] [--data DIR]

A row that fails is named on standard error with what went wrong, and the exit status is 1; the others are measured
nevertheless. So are bars that were missed named, which leaves the exit status alone.
"""

import os
import signal
import sys
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import scheduling
import serving_batches
import serving_gateway
import serving_latency
import serving_turns
from report import Report, add_rows, check_rows


@dataclass(frozen=True)
class Options:
    """`quick` runs tiny models and few rounds: for a look and for tests. `data` is where sharegpt.json is."""

    quick: bool = False
    data: Path | None = None


def measure_scheduling(report: Report, options: Options) -> None:
    """What `scheduling.py` compares with the optimum in hindsight, on instances that are solved soon."""
    found = scheduling.run(scheduling.Options(options.quick, small=True), ["scheduling.mc_sf"])
    report.rows += found.rows
    report.skipped |= found.skipped


ROWS: dict[Callable[[Report, Options], None], tuple[str, ...]] = {
    serving_batches.measure_static: ("serving.batch16", "serving.single"),
    serving_batches.measure_mixed: ("serving.mixed",),
    serving_latency.measure_first_token: ("serving.ttft_warm", "serving.ttft_redis"),
    serving_latency.measure_second_token: ("serving.disaggregated",),
    serving_turns.measure_turns: ("serving.recompute",),
    serving_gateway.measure: ("serving.gateway_ms",),
    measure_scheduling: ("scheduling.mc_sf",),
}
"""What measures which rows."""


def run(options: Options, rows: Sequence[str] = ("",)) -> tuple[Report, list[str]]:
    """All rows, or those measured along with one that starts with one of `rows`; and the rows that failed."""
    report, failed = Report("serving"), list[str]()
    for measure, names in ROWS.items():
        if any(name.startswith(tuple(rows)) for name in names):
            try:
                measure(report, options)
            except Exception:
                traceback.print_exc()
                failed += names
    return report, failed


def missed(report: Report) -> list[str]:
    """The bars that were missed, a line each."""
    lines = []
    for row in report.rows:
        if row.bar is not None and (row.value < row.bar if row.better == "higher" else row.value > row.bar):
            lines.append(f"missed: {row.id} is {row.value:g} {row.unit}, its bar {row.bar:g}")
    return lines


def end(_: int, __: object) -> None:
    """So that whoever ends this program ends the processes it started, too."""
    sys.exit(1)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny models and few rounds")
    add_rows(parser)
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help="directory of data files")
    given = parser.parse_args()
    check_rows(parser, given.rows, [name for names in ROWS.values() for name in names])
    signal.signal(signal.SIGTERM, end)
    report, failed = run(Options(given.quick, given.data and Path(given.data)), given.rows)
    report.print(given.json)
    for line in [*missed(report), *(f"failed: {name}" for name in failed)]:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
