"""Do engines get from the store what it can give, and never a wrong byte?

    python benchmarks/integrations.py [--quick] [--json]

Each engine is measured in its own environment (`make integrations`); without one its rows are skipped.
"""

import json
import os
import subprocess
from argparse import ArgumentParser
from pathlib import Path
from typing import Literal, NamedTuple

from report import Report

ROOT = Path(__file__).resolve().parent.parent
ENGINES = Path(os.environ.get("CACHESTORE_ENGINES", ROOT / "build" / "integrations"))


class Aim(NamedTuple):
    """What a row is measured in, and what it should reach."""

    unit: str
    better: Literal["higher", "lower"]
    bar: float | None = None
    reach: float | None = None


VLLM = {
    "integrations.wrong_bytes": Aim("answers", "lower", 0, 0),
    "integrations.vllm_blocked_ms": Aim("ms", "lower", 1, 0.3),
    "integrations.vllm_match_ms": Aim("ms", "lower", 0.6, 0.4),
    "integrations.vllm_tier": Aim("ratio", "higher", 0.8, 0.95),
    "integrations.vllm_load_ms": Aim("ms", "lower"),
}


def main() -> None:
    """Prints a table, or one JSON object with --json."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    report = Report("integrations")
    python = ENGINES / "vllm" / "bin" / "python"
    if python.exists():
        rounds, operations = (2, 40) if options.quick else (7, 2000)
        command = [str(python), str(ROOT / "benchmarks" / "integrations_vllm.py"), str(rounds), str(operations)]
        run = subprocess.run(
            command, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=True, text=True
        )
        # vLLM writes to the same stream
        for name, value in json.loads(run.stdout.strip().splitlines()[-1]).items():
            aim = VLLM[name]
            report.add(name, value, aim.unit, aim.better, bar=aim.bar, reach=aim.reach)
    else:
        for name in VLLM:
            report.skip(name, "vLLM is not installed: make integrations")
    report.skip("integrations.vllm_load", "LMCache's multi-process connector is not measured beside ours yet")
    report.print(options.json)


if __name__ == "__main__":
    main()
