"""What a cluster of many nodes would hit, and how evenly it would work: simulated, by the code that decides in one.

    python benchmarks/cluster_sim.py [--json] [--quick] [--data DIR] [--nodes N ...] [--plot FILE.png]

Prompts are those of the conversation trace, laid side by side (DIR, $CACHESTORE_DATA unless given, has it), and drawn
ones whose documents are popular by Zipf's law. Rows of the trace are `cluster.trace_<nodes>.*`, of the others
`cluster.zipf_<nodes>.*`; `cluster.loss_<percent>.*` lose nodes in the middle. `docs/cluster.md` tells what they say.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from cluster_cases import TRACE, Case, play, recovery
from cluster_entries import redis_bytes
from cluster_plot import draw
from cluster_run import Outcome
from report import Report

from cachestore.errors import ConfigError
from cachestore.replay.plot import check_plot

NODES = (3, 10, 100, 1000)
QUICK = (3, 10)
MANY = 1000
BLOCK_MIB = 64
"""Of 512 tokens of a model with 128 KiB for each, as one of 8 billion parameters has."""

LOSSES = (0.01, 0.1)
LOSES = 100
"""Nodes of the cluster that loses some; with fewer it would be a lottery which blocks are lost."""


def cases(nodes: list[int], place: Path | None) -> list[Case]:
    """All that is simulated, what takes longest first."""
    places = [None] if place is None else [place, None]
    found = [Case(count, where, alone) for where in places for count in nodes for alone in (False, True)]
    if place is not None and LOSES in nodes:
        found += [Case(LOSES, place, share=share) for share in LOSSES]
    return sorted(found, key=lambda case: (-case.nodes, case.alone))


def add(report: Report, name: str, nodes: int, many: Outcome, one: Outcome) -> None:
    """The rows of one cluster beside one node with the memory of all, and beside memory without end."""
    id = f"cluster.{name}_{nodes}"
    bars = {("trace", 3): (0.97, 1.0), ("trace", MANY): (0.93, 0.98)}
    bar, reach = bars.get((name, nodes), (None, None))
    of_one = f"{id}.of_one" if bar is None else f"cluster.hit{nodes}"
    if not one.hits or not many.hits:
        report.skip(of_one, "nothing was hit: memory for a tenth of these blocks is too little, or none comes back")
        return
    report.add(of_one, many.hit_rate / one.hit_rate, "of one node's", bar=bar, reach=reach)
    report.add(f"{id}.hit_rate", many.hit_rate, "of blocks")
    report.add(f"{id}.infinite", 1 - many.distinct / many.blocks, "of blocks")
    report.add(f"{id}.lookups", many.asked / many.requests, "round trips/prompt", "lower", bar=1.0)
    report.add(f"{id}.carried", BLOCK_MIB * many.others / many.requests, "MiB/prompt", "lower")
    report.add(f"{id}.holders", sum(many.holders) / len(many.holders), "copies/block", "lower")
    report.add(f"{id}.waited", many.waited / many.requests, "s/prompt", "lower")
    report.add(f"{id}.imbalance", many.imbalance, "max/mean", "lower")


def main() -> None:
    """Simulates, and prints the rows."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(map(str, QUICK))} nodes")
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help=f"folder of {TRACE}")
    parser.add_argument("--nodes", type=int, nargs="+", metavar="N", help=f"sizes of clusters, {NODES} unless given")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="hit rate and imbalance over nodes, as a picture")
    options = parser.parse_args()
    nodes = sorted(set(options.nodes or (QUICK if options.quick else NODES)))
    if nodes[0] < 1:
        parser.error("--nodes must be 1 or more")
    if options.plot:
        try:
            check_plot(options.plot)
        except ConfigError as error:
            parser.error(str(error))
    place = Path(options.data) / TRACE if options.data else None
    report = Report("Clusters of many nodes, simulated")
    if place is None or not place.is_file():
        report.skip("cluster.trace", f"no {TRACE} (--data DIR)")
        place = None
    wanted = cases(nodes, place)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        played = dict(zip(wanted, pool.map(play, wanted), strict=True))
    named: dict[str, Path | None] = {"zipf": None} if place is None else {"trace": place, "zipf": None}
    for count in nodes:
        for name, where in named.items():
            add(report, name, count, played[Case(count, where)], played[Case(count, where, alone=True)])
    largest = played[Case(nodes[-1], None)]
    if largest.hits:
        report.add("cluster.imbalance", largest.imbalance, "max/mean", "lower", bar=1.5, reach=1.2)
    report.add("cluster.million_blocks", redis_bytes(largest.holders) * 1e6 / 2**20, "MiB of Redis", "lower")
    for share in LOSSES:
        id = f"cluster.loss_{100 * share:g}"
        if place is None or LOSES not in nodes:
            report.skip(id, f"needs {TRACE} and {LOSES} among --nodes")
            continue
        kept, after = recovery(played[Case(LOSES, place, share=share)], played[Case(LOSES, place)])
        report.add(f"{id}.kept", kept, "of hit rate, at worst")
        report.add(f"{id}.back", after, "s", "lower")
    report.print(options.json)
    if options.plot:
        found = {name: [played[Case(count, where)] for count in nodes] for name, where in named.items()}
        ones = {name: [played[Case(count, where, alone=True)] for count in nodes] for name, where in named.items()}
        draw(found, ones, nodes, options.plot)


if __name__ == "__main__":
    main()
