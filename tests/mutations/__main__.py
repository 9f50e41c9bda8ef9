"""Runs the mutations and prints which were caught; status 1 if one survived, 2 if the tests did not run."""

import argparse
import json
import sys
import time

from tests.mutations import MUTATIONS
from tests.mutations.running import NotRun, Outcome, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="mutations whose name contains this; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--jobs", type=int, default=1, help="how many run at once (default: 1)")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.only or any(part in m.name for part in options.only)]
    if not chosen or options.jobs < 1:
        parser.error("no mutation has such a name" if not chosen else "--jobs must be at least 1")
    if options.list:
        print("\n".join(mutation.name for mutation in chosen))
        return 0

    def tell(outcome: Outcome) -> None:
        word = "caught" if outcome.caught else "SURVIVED"
        print(f"{word:8} {outcome.seconds:6.1f} s  {outcome.mutation.name}", file=sys.stderr, flush=True)

    began = time.monotonic()
    try:
        outcomes = run(chosen, options.jobs, tell)
    except NotRun as error:
        print(error, file=sys.stderr)
        return 2
    caught = sum(outcome.caught for outcome in outcomes)
    if options.json:
        rows = [
            {"name": o.mutation.name, "file": o.mutation.file, "caught": o.caught, "seconds": round(o.seconds, 1)}
            for o in outcomes
        ]
        print(json.dumps({"caught": caught, "total": len(outcomes), "mutations": rows}, indent=2))
    else:
        print(f"{caught}/{len(outcomes)} caught in {time.monotonic() - began:.0f} s")
    return 0 if caught == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
