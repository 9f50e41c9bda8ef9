"""What commands print: tables for people, one JSON object for programs."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

# what is piped or logged has no width of its own, unless COLUMNS names one
console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
error_console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="A TOML configuration.", exists=False)]
Address = Annotated[str, typer.Option("--address", "-a", help="The store: host:port or unix:/path.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.")]

DEFAULT_ADDRESS = "127.0.0.1:7420"


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object, on standard output."""
    # flushed: whoever reads what a server says waits for it
    print(json.dumps(value, indent=2, default=str), flush=True)


def print_verbatim(*lines: str) -> None:
    """Lines to copy, indented, as they are."""
    for line in (*lines, ""):
        console.print(f"    {line}" if line else "", markup=False, highlight=False, soft_wrap=True)


def table(title: str, *columns: str) -> Table:
    """A table with these columns; those that start with '>' are right-aligned."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return made


def human_bytes(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
