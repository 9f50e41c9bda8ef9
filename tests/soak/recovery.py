"""How long until a frozen store is noticed, and until calls go well after a kill.

    python -m tests.soak.recovery [--trials 30] [--json]

*Detect*: from SIGSTOP of the store until a call that may take 15 s ends with Unavailable. *Recover*: from SIGKILL, a
new process being started at once, until the first call goes well; `behind start` counts from when that one listens.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from cachestore.errors import CacheStoreError, Unavailable
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from tests.faults.wire import TRANSPORTS
from tests.soak.corruption import FIRST
from tests.soak.plan import Plan, keys_of
from tests.soak.system import System, environment

BARS = {"detect a frozen store": (3.0, 5.0), "recover after a store kill": (2.0, None)}
"""Seconds of the median and of the worst."""


@dataclass
class Times:
    """Seconds of every trial, by what was measured."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        """One more trial."""
        self.taken.setdefault(name, []).append(seconds)


def until_well(call: Callable[[], object]) -> None:
    """Returns once `call` raises no more."""
    while True:
        try:
            call()
            return
        except CacheStoreError:
            time.sleep(0.01)


def frozen(system: System, store: RemoteStore, times: Times) -> None:
    """One store that stops."""
    until_well(lambda: store.lookup(keys_of(1), timeout=1.0))
    system.nodes[0].store.stop()
    begun = time.monotonic()
    try:
        store.lookup(keys_of(1), timeout=15.0)
    except Unavailable:
        times.add("detect a frozen store", time.monotonic() - begun)
    except CacheStoreError:
        times.add("detect a frozen store", 15.0)
    system.nodes[0].store.go_on()
    begun = time.monotonic()
    until_well(lambda: store.lookup(keys_of(1), timeout=1.0))
    times.add("recover once it goes on", time.monotonic() - begun)


def killed(system: System, store: RemoteStore, times: Times) -> None:
    """One store that dies."""
    until_well(lambda: store.lookup(keys_of(1), timeout=1.0))
    begun = time.monotonic()
    system.nodes[0].store.kill()
    system.start_store(system.nodes[0])
    listening = time.monotonic()
    until_well(lambda: store.lookup(keys_of(1), timeout=1.0))
    times.add("recover after a store kill", time.monotonic() - begun)
    times.add("recover after a store kill, behind start", time.monotonic() - listening)


def redis_killed(system: System, store: RemoteStore, times: Times) -> None:
    """One Redis that dies."""

    def used_again() -> None:
        # a name that is asked for is what makes the store try
        store.lookup(keys_of(FIRST * 2), timeout=1.0)
        if not total(store.stats(timeout=1.0), "tier_healthy", tier="redis"):
            raise Unavailable("not yet")

    until_well(used_again)
    begun = time.monotonic()
    system.redis_process.kill()
    system.redis_process.wait()
    for _ in range(3):
        # so that the store has noticed
        store.lookup(keys_of(FIRST * 2), timeout=1.0)
    system.start_redis()
    until_well(used_again)
    times.add("recover after a Redis restart", time.monotonic() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.recovery", description=__doc__)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--transports", choices=sorted(TRANSPORTS), default=min(TRANSPORTS))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    plan, times = Plan(0.0, 1, TRANSPORTS[options.transports]), Times()
    with tempfile.TemporaryDirectory(prefix="recovery-") as root, System(plan, Path(root)) as system:
        for actor in system.actors.values():
            actor.kill()
        with system.client(system.nodes[0].store.address) as store:
            for _ in range(options.trials):
                for trial in (frozen, killed, redis_killed):
                    trial(system, store, times)
    rows = {
        name: {"n": len(taken), "median": round(median(taken), 2), "max": round(max(taken), 2)}
        for name, taken in times.taken.items()
    }
    missed = [
        name
        for name, (middle, worst) in BARS.items()
        if rows[name]["median"] > middle or (worst is not None and rows[name]["max"] > worst)
    ]
    if options.json:
        print(json.dumps({"environment": environment(), "seconds": rows, "missed": missed}, indent=2))
    else:
        table = Table("", "trials", "median s", "max s", title=f"recovery, {environment()}")
        for name, row in rows.items():
            table.add_row(name, *map(str, row.values()))
        Console().print(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
