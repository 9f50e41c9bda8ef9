"""What is it worth, and what does it cost, that several nodes are one store?

    python benchmarks/cluster.py [--quick] [--json] [--rows PREFIX ...] [--data DIR] [--simulate] [--soak FILE]

Three nodes on this machine. `cluster.hit3` and `cluster.lookups` play the conversation trace (DIR, $CACHESTORE_DATA
unless given, has it) through three plain processes, and one with the memory of all, since Ray adds nothing to where
blocks lie; a prompt's worker is chosen as the gateway does it, by queues in the simulator's virtual time.
`cluster.peer_read` (`cluster_peers.py`, two plain processes) says what it is worth to read from another node. Recovery
and `cluster.head_down` run on a real Ray of three nodes with a store on each. `--simulate` adds what needs a thousand
nodes (`cluster_sim.py`, ten minutes), `--soak` what `python -m tests.soak --nodes 3 --json` wrote to FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cluster_hits
import cluster_peers
import cluster_recovery
import directory
from report import Report, add_rows, check_rows
from store_redis import server

SIMULATED = ("cluster.hit1000", "cluster.imbalance")
SOAKED = {"past_deadline": "calls_past_deadline", "wrong_bytes": "wrong_bytes", "lost_durable": "lost_durable"}
"""What must be 0 in the soak, and how the soak calls it, or begins to."""


@dataclass(frozen=True)
class Options:
    """`quick` does less, for a look and for tests. `data` has the trace, `soak` is the file of a soak."""

    quick: bool = False
    data: Path | None = None
    simulate: bool = False
    soak: Path | None = None


def measure_directory(report: Report, options: Options) -> None:
    """Rows `cluster.lookup_ms` and `cluster.directory_bytes`, with what `directory.py` puts beside them."""
    with server() as port:
        directory.measure_lookup(report, port, 30 if options.quick else 300)
    with server() as port:
        directory.measure_telling(report, port, 10_000 if options.quick else 100_000)


def measure_peers(report: Report, options: Options) -> None:
    """Rows `cluster.peer_read`: what a node reads of another, beside its own, Redis' and what it computes instead."""
    cluster_peers.measure(report, options.quick)


def measure_simulated(report: Report, options: Options) -> None:
    """Rows `cluster.hit1000` and `cluster.imbalance`."""
    if not options.simulate:
        for id in SIMULATED:
            report.skip(id, "takes ten minutes (--simulate)")
        return
    command = [sys.executable, str(Path(__file__).with_name("cluster_sim.py")), "--json", "--nodes", "1000"]
    command += ["--data", str(options.data)] if options.data else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    rows = {row["id"]: row for row in found["rows"]}
    for id in SIMULATED:
        if id in rows:
            row = rows[id]
            report.add(id, row["value"], row["unit"], row["better"], bar=row["bar"], reach=row["reach"])
        else:
            report.skip(id, found["skipped"].get("cluster.trace", "the simulator says nothing of it"))


def measure_soak(report: Report, options: Options) -> None:
    """Rows `cluster.soak.*`: what must be 0."""
    if options.soak is None:
        report.skip(
            "cluster.soak", "no soak of three nodes (python -m tests.soak --nodes 3 --json > FILE, --soak FILE)"
        )
        return
    found = json.loads(options.soak.read_text())
    for name, told in SOAKED.items():
        count = sum(value for key, value in found["zero"].items() if key.startswith(told))
        report.add(f"cluster.soak.{name}", count, "in the soak", "lower", bar=0, reach=0)
    report.add("cluster.soak.minutes", found["minutes"], "minutes")
    report.add("cluster.soak.operations", found["operations"], "calls")


ROWS: dict[Callable[[Report, Options], None], tuple[str, ...]] = {
    cluster_hits.measure: ("cluster.hit3", "cluster.lookups"),
    measure_directory: ("cluster.lookup_ms", "cluster.directory_bytes"),
    measure_peers: ("cluster.peer_read",),
    cluster_recovery.measure: ("cluster.recovery_s", "cluster.recovery_hits_s"),
    cluster_recovery.measure_head: ("cluster.head_down",),
    measure_simulated: SIMULATED,
    measure_soak: ("cluster.soak",),
}
"""What measures which rows."""


def run(options: Options, rows: Sequence[str] = ("",)) -> Report:
    """Measures all rows, or those whose name starts with one of `rows` and what is measured along with them."""
    report = Report("Several nodes, one store")
    for measure, names in ROWS.items():
        if any(name.startswith(tuple(rows)) for name in names):
            measure(report, options)
    return report


def main() -> None:
    """The command line."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help=f"folder of {cluster_hits.TRACE}"
    )
    parser.add_argument("--simulate", action="store_true", help="a thousand nodes, too, simulated: ten minutes")
    parser.add_argument("--soak", type=Path, metavar="FILE", help="the figures of a soak of three nodes")
    add_rows(parser)
    given = parser.parse_args()
    check_rows(parser, given.rows, [name for names in ROWS.values() for name in names])
    options = Options(given.quick, given.data and Path(given.data), given.simulate, given.soak)
    run(options, given.rows).print(given.json)


if __name__ == "__main__":
    main()
