"""How far behind LRU does an eviction policy ever fall?

    python benchmarks/replay_cases.py [--data DIR] [--seeds 0,1,2] [--policy prefix] [--traces agents,chat] [--json]

replays the traces of `traces.py`, each at three capacities, for every seed, and prints for each case the share of the
gap between LRU and the optimum that the policy closes; then how many cases there are, the worst, the median, and those
more than 0.02 of the gap behind LRU. DIR is $CACHESTORE_DATA unless given; without its sharegpt.json that trace is left
out. The status is 1 if a case is that far behind.
"""

import json
import os
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from traces import made, makers

from cachestore.replay.alone import Alone
from cachestore.replay.comparing import compare
from cachestore.replay.trace import parse

CAPACITIES = {
    "sharegpt": (500, 2000, 6000),
    "rag": (250, 1000, 4000),
    "moving": (250, 1000, 4000),
    "agents": (250, 500, 1000),
    "loop": (500, 2000, 2900),
    "recency": (250, 1000, 4000),
    "mixed": (250, 1000, 4000),
}
"""In blocks; those of the other traces are `USUAL`."""
USUAL = (500, 2000, 8000)
ALLOWED = 0.02
"""Of the gap: no case should be further behind LRU."""


class Case(NamedTuple):
    """One trace of one seed at one capacity; rates are shares of all blocks. `gap` is the part of it closed."""

    seed: int
    trace: str
    capacity: int
    lru: float
    optimum: float
    gap: float


def cases(policy: str, seeds: Sequence[int], data: Path | None, only: Sequence[str]) -> Iterator[Case]:
    """Each as soon as it is known; cases where LRU hits all that can be hit are left out."""
    for seed in seeds:
        for name, maker in makers(data).items():
            if only and name not in only:
                continue
            trace = parse(name, [line.encode() for line in made(name, maker, seed)])
            for row in compare(trace, [policy], CAPACITIES.get(name, USUAL), Alone(), lambda blocks: None):
                if row.gap is not None:
                    yield Case(seed, name, row.capacity, row.lru, row.optimum, row.gap)


def main() -> int:
    """Prints the table and its summary."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=os.environ.get("CACHESTORE_DATA"), help="folder of sharegpt.json")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6", help="with commas between them")
    parser.add_argument("--policy", default="prefix")
    parser.add_argument("--traces", default="", help="names, with commas between them; all unless given")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found = []
    for case in cases(options.policy, seeds, options.data, [name for name in options.traces.split(",") if name]):
        found.append(case)
        if not options.json:
            print(f"{case.seed:4} {case.trace:9} {case.capacity:6} {case.lru:.3f} {case.optimum:.3f} {case.gap:+.4f}")
    if not found:
        print("no cases: no such trace, or LRU hits all that can be hit", file=sys.stderr)
        return 2
    gaps = [case.gap for case in found]
    behind = [case for case in found if case.gap < -ALLOWED]
    if options.json:
        print(json.dumps({"cases": [case._asdict() for case in found], "behind": len(behind), "worst": min(gaps)}))
    else:
        print(f"{len(found)} cases: worst {min(gaps):+.4f}, median {statistics.median(gaps):+.4f}, "
              f"mean {statistics.mean(gaps):+.4f}, {len(behind)} more than {ALLOWED} behind LRU")  # fmt: skip
    return int(bool(behind))


if __name__ == "__main__":
    sys.exit(main())
