"""Runs it, prints the table, and ends with 1 if something is not zero that must be."""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from cachestore.metrics import total
from tests.faults.wire import TRANSPORTS
from tests.soak.audit import Audit
from tests.soak.checks import check
from tests.soak.history import histories
from tests.soak.leaks import Leaks
from tests.soak.nemesis import Nemesis
from tests.soak.notes import notes
from tests.soak.plan import Plan
from tests.soak.report import report, show
from tests.soak.system import System

REST_SECONDS = 8.0
"""After the clients are gone, leases end by themselves."""


def held(system: System) -> dict[str, int]:
    """What is still held once nobody calls any more."""
    until = time.monotonic() + REST_SECONDS
    names = ("puts_open", "put_open", "leases_open", "read_open")
    while True:
        figures = [node.figures() for node in system.nodes]
        counts = {name: sum(total(each, name) for each in figures) for name in names}
        if (all(figures) and not any(counts.values())) or time.monotonic() > until:
            return counts if all(figures) else {"no_answer": 1}
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, choices=range(1, 10), default=1, help="how many nodes are one store")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transports", choices=sorted(TRANSPORTS), default=min(TRANSPORTS))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    plan = Plan(options.minutes, options.seed, TRANSPORTS[options.transports], options.nodes)
    with tempfile.TemporaryDirectory(prefix="soak-") as root, System(plan, Path(root)) as system:
        leaks = Leaks(system)
        leaks.start()
        audit = Audit(system, plan.seed)
        nemesis = Nemesis(system, plan, audit)
        nemesis.run()
        for actor in system.actors.values():
            actor.kill()
        audit.all()
        slopes = leaks.end()
        left = held(system)
        noted = list(notes(system.notes))
        found = check(noted, nemesis.windows)
        told = histories(found.invisible, noted, nemesis.windows)
        figures = report(plan, nemesis, found, slopes, left, told)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures)
    return 1 if any(figures["zero"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
