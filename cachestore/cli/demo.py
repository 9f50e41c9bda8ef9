"""`cachestore demo`: the whole path on real input."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cachestore.cli.figures import as_tables
from cachestore.cli.output import Json, console, error_console, print_json
from cachestore.demo import documents

if TYPE_CHECKING:
    from cachestore.demo.asking import Asked

WIDE = 110
NUMBERS = ("prompt", "reused", "1st token")


def demo(
    model: Annotated[str, typer.Option(help="Another causal language model: a directory or a hub id.")] = "",
    prompts: Annotated[Path | None, typer.Option(help="Your own documents and questions, as JSON.")] = None,
    json: Json = False,
) -> None:
    """Ray, store, embedded Redis and workers answer questions about documents they prefilled once. Two minutes."""
    from cachestore.demo.run import run

    chosen = documents.from_file(prompts) if prompts is not None else documents.needle_documents()
    name = model or str(documents.needle() / "model")
    report = run(name, chosen, _Quiet() if json else _Rows(console.width))
    if json:
        print_json(report.as_json())
        return
    for made in as_tables(report.figures):
        console.print(made)
    console.print("[bold]in short[/]")
    for key, value in report.as_json().items():
        console.print(Text(f"  {key}: {value}"))


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(demo)


class _Quiet:
    """Only what is being done, on standard error, if somebody looks."""

    def tell(self, text: str) -> None:
        if os.isatty(2):
            error_console.print(Text(f"{text} …", "dim"))

    def scene(self, title: str) -> None:
        self.tell(title)

    def row(self, asked: "Asked") -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _Rows:
    """A title for each scene, and a row for each answer as it comes; also where nobody can redraw what is printed."""

    def __init__(self, width: int) -> None:
        wide = width >= WIDE
        fixed = {"document": 8, "prompt": 6, "reused": 6, "from": 6, "1st token": 9, "answer": 16 if wide else 8, "": 5}
        if wide:
            fixed["prefilled by"] = 20
        rest = width - sum(fixed.values()) - len(fixed)
        self._widths = {"document": fixed.pop("document"), "question": max(rest, 8), **fixed}
        self._headed = False

    def tell(self, text: str) -> None:
        console.print(Text(f"{text} …", "dim"))

    def scene(self, title: str) -> None:
        console.print(Text(f"\n{title}", "bold"))
        self._headed = False

    def row(self, asked: "Asked") -> None:
        if not self._headed:
            self._print([Text(name, "bold") for name in self._widths])
            self._headed = True
        mark = {True: Text("right", "green"), False: Text("wrong", "red"), None: Text()}[asked.right]
        room = self._widths["question"]
        question = asked.question.removeprefix("Question: ")
        cells = [
            Text(asked.document),
            # questions tend to differ at their end
            Text(question if len(question) <= room else f"…{question[1 - room :]}"),
            Text(f"{asked.prompt_tokens}"),
            Text(f"{sum(asked.reused.values())}"),
            Text(", ".join(asked.reused)),
            Text(f"{asked.first_token_ms:,.0f} ms"),
            Text(" ".join(asked.answer.split())),
            mark,
            Text(asked.prefilled_by),
        ]
        self._print(cells[: len(self._widths)])

    def say(self, text: str) -> None:
        console.print(Text(f"→ {text}", "bold"))

    def _print(self, cells: Sequence[Text]) -> None:
        line = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        for name, width in self._widths.items():
            line.add_column(width=width, no_wrap=True, justify="right" if name in NUMBERS else "left")
        line.add_row(*cells)
        console.print(line)
