"""`cachestore demo`: the whole path on real input."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from cachestore.cli.figures import as_tables
from cachestore.cli.output import Json, console, error_console, print_json, table
from cachestore.demo import documents
from cachestore.demo.asking import Asked
from cachestore.demo.run import run


def demo(
    model: Annotated[str, typer.Option(help="Another causal language model: a directory or a hub id.")] = "",
    prompts: Annotated[Path | None, typer.Option(help="Your own documents and questions, as JSON.")] = None,
    json: Json = False,
) -> None:
    """Ray, store, embedded Redis and workers answer questions about documents they prefilled once. Two minutes."""
    chosen = documents.from_file(prompts) if prompts is not None else documents.needle_documents()
    name = model or str(documents.needle() / "model")
    with ExitStack() as stack:
        watcher = _Quiet() if json else _Tables(stack)
        report = run(name, chosen, watcher)
    if json:
        print_json(report.as_json())
        return
    for made in as_tables(report.figures):
        console.print(made)
    console.print("[bold]in short[/]")
    for key, value in report.as_json().items():
        console.print(f"  {key}: {value}")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


class _Quiet:
    """Only what is being done, on standard error, if somebody looks."""

    def tell(self, text: str) -> None:
        if os.isatty(2):
            error_console.print(f"[dim]{text} …[/]")

    def scene(self, title: str) -> None:
        self.tell(title)

    def row(self, asked: Asked) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _Tables:
    """A table for each scene, filled while it runs."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._live: Live | None = None
        self._table: Table | None = None
        stack.callback(self._end)

    def tell(self, text: str) -> None:
        self._end()
        console.print(f"[dim]{text} …[/]")

    def scene(self, title: str) -> None:
        self._end()
        self._table = table(
            title, "document", "question", ">prompt", ">reused", "from", ">first token", "answer", "prefilled by"
        )

    def row(self, asked: Asked) -> None:
        assert self._table is not None
        if self._live is None:
            self._live = Live(self._table, console=console, refresh_per_second=4)
            self._live.start()
        mark = {True: "[green]right[/]", False: "[red]wrong[/]", None: ""}[asked.right]
        self._table.add_row(
            asked.document,
            asked.question.removeprefix("Question: "),
            str(asked.prompt_tokens),
            str(sum(asked.reused.values())),
            ", ".join(asked.reused),
            f"{asked.first_token_ms:.0f} ms",
            f"{asked.answer} {mark}",
            asked.prefilled_by,
        )

    def say(self, text: str) -> None:
        self._end()
        console.print(f"[bold]→ {text}[/]\n")

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
