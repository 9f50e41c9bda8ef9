"""Do engines get from the store what it can give, and never a wrong byte?

    python benchmarks/integrations.py [--quick] [--json] [--only NAME ...]

Each engine is measured in its own environment (`make integrations`), by `integrations_<name>.py`, which prints rows as
lines of JSON as it gets them; without the environment its rows are skipped.
"""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Literal, NamedTuple

from report import Report

HERE = Path(__file__).resolve().parent
ENGINES = Path(os.environ.get("CACHESTORE_ENGINES", HERE.parent / "build" / "integrations"))
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "LMCACHE_TRACK_USAGE": "false"}
WRONG = "integrations.wrong_bytes"
PATIENCE = 1800.0
"""Seconds after which a part is ended, on a busy machine too; the rows that it printed count."""


class Aim(NamedTuple):
    """What a row is measured in, and what it should reach."""

    unit: str
    better: Literal["higher", "lower"]
    bar: float | None = None
    reach: float | None = None


class Measured(NamedTuple):
    """One part: whose environment it runs in (its own by default, "" for this one), and its rows."""

    engine: str
    rows: dict[str, Aim]
    rounds: int = 7


AMOUNT = Aim("answers", "lower", 0, 0)
PARTS = {
    "transformers": Measured("", {f"{WRONG}.transformers": AMOUNT}),
    "vllm": Measured(
        "vllm",
        {
            "integrations.vllm_match_ms": Aim("ms", "lower", 0.6, 0.4),
            "integrations.vllm_tier": Aim("ratio", "higher", 0.8, 0.95),
            "integrations.vllm_blocked_ms": Aim("ms", "lower", 1, 0.3),
            f"{WRONG}.vllm_connector": AMOUNT,
            f"{WRONG}.vllm_tier": AMOUNT,
        },
    ),
    # LMCache's environment has vLLM too
    "vllm_load": Measured(
        "lmcache",
        {
            "integrations.vllm_load": Aim("ratio", "higher", 1.3, 2),
            "integrations.vllm_load_ms": Aim("ms", "lower"),
            "integrations.lmcache_load_ms": Aim("ms", "lower"),
        },
    ),
    "sglang": Measured(
        "sglang",
        {
            "integrations.sglang": Aim("ratio", "higher", 1.5, 3),
            "integrations.sglang_2mib": Aim("ratio", "higher", 0.6, 0.75),
            f"{WRONG}.sglang": AMOUNT,
        },
    ),
    "lmcache": Measured(
        "lmcache",
        {
            "integrations.lmcache": Aim("ratio", "higher", 1.5, 3),
            "integrations.lmcache_resp": Aim("ratio", "higher"),
            f"{WRONG}.lmcache_connector": AMOUNT,
            f"{WRONG}.lmcache_l2": AMOUNT,
        },
    ),
}


def main() -> None:
    """Prints a table, or one JSON object with --json."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    options = parser.parse_args()
    report, wrong = Report("integrations"), dict[str, float]()
    for name in options.only:
        part, found = PARTS[name], dict[str, float]()
        why = _missing(name, part)
        if not why:
            begun = time.monotonic()
            for row, value in _measure(name, part, options.quick):
                # a part of one adapter may leave its name out
                row = f"{row}.{name}" if row == WRONG else row
                found[row] = value
                _say(f"{row} = {value:g}")
            why = f"benchmarks/integrations_{name}.py ended without it"
            _say(f"{name}: {time.monotonic() - begun:.0f} s")
        for row in part.rows.keys() - found.keys():
            report.skip(row, why)
        for row, value in found.items():
            aim = part.rows.get(row, Aim("ratio", "higher"))
            report.add(row, value, aim.unit, aim.better, bar=aim.bar, reach=aim.reach)
        wrong |= {row: value for row, value in found.items() if row.startswith(WRONG)}
    if wrong:
        report.add(WRONG, sum(wrong.values()), AMOUNT.unit, AMOUNT.better, bar=AMOUNT.bar, reach=AMOUNT.reach)
    report.print(options.json)


def _missing(name: str, part: Measured) -> str:
    """Why a part cannot be measured here, if so."""
    if not (HERE / f"integrations_{name}.py").exists():
        return "is not measured yet"
    if not _python(part).exists():
        return f"{part.engine} is not installed: make integrations"
    return ""


def _python(part: Measured) -> Path:
    return ENGINES / part.engine / "bin" / "python" if part.engine else Path(sys.executable)


def _measure(name: str, part: Measured, quick: bool) -> Iterator[tuple[str, float]]:
    """The rows of a part, as they come, from a process of its own that is ended with all it started."""
    rounds, operations = (2, 300) if quick else (part.rounds, 10_000)
    command = [str(_python(part)), str(HERE / f"integrations_{name}.py"), str(rounds), str(operations)]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}, text=True, start_new_session=True
    )
    assert run.stdout is not None
    over = Timer(PATIENCE, _end, [run])
    over.start()
    try:
        for line in run.stdout:
            # engines write to the same stream
            if line.startswith('{"integrations.'):
                yield from json.loads(line).items()
    finally:
        over.cancel()
        _end(run)


def _end(run: "subprocess.Popen[str]") -> None:
    try:
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    run.wait()


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
