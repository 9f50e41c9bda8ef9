"""`cachestore demo`: the whole system on real input."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cachestore.cli.figures import sums
from cachestore.cli.output import Json, console, error_console, print_json, table
from cachestore.demo import documents
from cachestore.errors import InvalidArgument

if TYPE_CHECKING:
    from cachestore.demo.asking import Asked
    from cachestore.demo.run import Report

MOST_NODES = 8

COLUMNS = {"about": 12, "asked": 7, "prompt": 9, "reused": 8, "": 6, "1st token": 10, "right": 7}
"""Titles and widths."""


def demo(
    model: Annotated[str, typer.Option(help="Another causal language model: a directory or a hub id.")] = "",
    prompts: Annotated[Path | None, typer.Option(help="Your own documents and questions, as JSON.")] = None,
    nodes: Annotated[int, typer.Option(help="So many nodes of Ray on this machine; one of several is killed.")] = 1,
    start_timeout: Annotated[
        float | None, typer.Option(help="Seconds that store and workers may take to start, on a machine that is slow.")
    ] = None,
    json: Json = False,
) -> None:
    """Ray, store, embedded Redis, workers and gateway, and eight users who ask about documents. One minute."""
    from cachestore.demo.run import run

    if not 1 <= nodes <= MOST_NODES:
        raise InvalidArgument(f"--nodes must lie in 1 .. {MOST_NODES}, got {nodes}: each is a Ray on this machine")
    if start_timeout is not None and not 0 < start_timeout < math.inf:
        raise InvalidArgument(f"--start-timeout must be more than 0 seconds, got {start_timeout:g}")
    chosen = documents.from_file(prompts) if prompts is not None else documents.needle_documents()
    name = model or str(documents.needle() / "model")
    report = run(name, chosen, _Quiet() if json else _Rows(), nodes, start_timeout)
    if json:
        print_json(report.as_json())
        return
    console.print(_figures(report))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


def _figures(report: "Report") -> Table:
    """What it came to."""
    told = report.as_json()
    hits = ", ".join(f"{count:,} from {tier}" for tier, count in told["hits_by_tier"].items())
    rows = {
        "answers": f"{told['questions']:,} questions by {told['users']} users, {len(report.cached) + 1} times",
        "with the cache and without": "identical" if told["identical_tokens"] else "DIFFERENT",
        "prompt tokens reused": f"{told['tokens_reused']:,} of {told['prompt_tokens']:,} ({told['reused_share']:.0%})",
        "first token, median": f"{told['ttft_warm_ms_p50']:,.0f} ms with, {told['ttft_cold_ms_p50']:,.0f} ms without",
        "blocks read": hits,
        "blocks asked for and offered": "all accounted for" if all(sums(report.figures).values()) else "NOT all found",
        "killed": f"{told['killed_worker']}; {told['moved_requests']} requests were done elsewhere",
    }
    if report.lost is not None:
        rows["killed node"] = f"{report.lost.worker}; {report.lost.moved} requests were done elsewhere"
    made = table("in figures", "", "")
    made.show_header = False
    for name, value in rows.items():
        made.add_row(name, Text(value))
    return made


class _Quiet:
    """Only what is being done, on standard error, if somebody looks."""

    def tell(self, text: str) -> None:
        if os.isatty(2):
            error_console.print(Text(f"{text} …", "dim"))

    def scene(self, title: str) -> None:
        self.tell(title)

    def row(self, asked: Sequence["Asked"]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _Rows:
    """A title for each scene, and a row for the answers about a document; nothing is redrawn."""

    def tell(self, text: str) -> None:
        console.print(Text(f"{text} …", "dim"))

    def scene(self, title: str) -> None:
        console.print(Text(f"\n{title}", "bold"))
        self._print([Text(name, "dim") for name in COLUMNS])

    def row(self, asked: Sequence["Asked"]) -> None:
        from cachestore.demo.asking import first_token_ms

        prompt, reused = (sum(getattr(one, name) for one in asked) for name in ("prompt_tokens", "reused"))
        about = sorted({one.document for one in asked})
        known = [one.right for one in asked if one.right is not None]
        self._print([
            Text(about[0] if len(about) == 1 else f"{len(about)} documents"),
            Text(f"{len(asked)}"),
            Text(f"{prompt:,}"),
            Text(f"{reused:,}"),
            Text(f"{100 * reused / prompt:.0f} %", "green" if reused else "dim"),
            Text(f"{first_token_ms(asked):,.0f} ms"),
            Text(f"{sum(known)}/{len(known)}" if known else "", "green" if all(known) else "red"),
        ])  # fmt: skip

    def say(self, text: str) -> None:
        console.print(Text(f"→ {text}", "bold"))

    def _print(self, cells: Sequence[Text]) -> None:
        line = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        for name, width in COLUMNS.items():
            line.add_column(width=width, no_wrap=True, justify="left" if name == "about" else "right")
        line.add_row(*cells)
        console.print(line)
