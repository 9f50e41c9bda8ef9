"""How near is one node's store to what its machine can do?

Each row is a figure beside what bounds it, with the bar it must pass and what we reach for. Both sides of a ratio are
measured in turn, round after round, so that what else the machine does falls on both alike; the figure is the median
of the rounds' ratios. A row that needs what is not there is skipped, and says so: `--data` names a directory with
traces, `--peers` a Python environment with LMCache (see peers/README.md), `--model` a model whose KV is coded.

    python benchmarks/store.py [--quick] [--json] [--rows PREFIX ...] [--data DIR] [--peers DIR] [--model DIR]

To add rows: a file with functions that take a `Report` and `Options`, and a line in `ROWS`.
"""

import os
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import store_codecs
import store_disk
import store_memory
import store_redis
import store_replay
from report import Report, add_rows, check_rows


@dataclass(frozen=True)
class Options:
    """`quick` measures fewer rounds of less data, for a look and for tests."""

    quick: bool = False
    data: Path | None = None
    peers: Path | None = None
    model: Path = store_codecs.NEEDLE_MODEL


ROWS: dict[Callable[[Report, Options], None], tuple[str, ...]] = {
    store_memory.measure_read_and_put: ("store.read", "store.put"),
    store_memory.measure_resident: ("store.rss",),
    store_memory.measure_match: ("store.match_us",),
    store_memory.measure_keys: ("store.keys",),
    store_redis.measure_read: ("redis.read",),
    store_redis.measure_beside_lmcache: ("redis.lmcache",),
    store_redis.measure_lookup: ("redis.lookup_ms",),
    store_disk.measure_restart: ("disk.restart",),
    store_disk.measure_read: ("disk.read",),
    store_codecs.measure_entropy: ("entropy.ratio", "entropy.encode", "entropy.decode"),
    store_replay.measure_gaps: ("replay.gap_3000", "replay.gap_10000"),
    store_replay.measure_speed: ("replay.speed",),
}
"""What measures which rows."""


def run(options: Options, rows: Sequence[str] = ("",)) -> Report:
    """Measures all rows, or those whose name starts with one of `rows` and what is measured along with them."""
    report = Report("store")
    for measure, names in ROWS.items():
        if any(name.startswith(tuple(rows)) for name in names):
            measure(report, options)
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer rounds of less data")
    add_rows(parser)
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help="directory of data files")
    parser.add_argument("--peers", type=Path, default=os.environ.get("CACHESTORE_PEERS"), help="environment of LMCache")
    parser.add_argument("--model", type=Path, default=Options.model, help="directory of a model")
    given = parser.parse_args()
    check_rows(parser, given.rows, [name for names in ROWS.values() for name in names])
    run(Options(given.quick, given.data, given.peers, given.model), given.rows).print(given.json)


if __name__ == "__main__":
    main()
