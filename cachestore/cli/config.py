"""`cachestore config`: check and show."""

import json as codec
from collections.abc import Mapping

import typer

from cachestore import settings
from cachestore.cli.config_checks import look
from cachestore.cli.output import Config, Json, console, print_json

app = typer.Typer(help="Check a configuration, or show it with every default.", no_args_is_help=True)


@app.command()
def check(config: Config = None, json: Json = False) -> None:
    """Say whether the configuration could work here, with the files and folders it names; nothing is started."""
    look(settings.load(config))
    if json:
        print_json({"ok": True})
    else:
        console.print("[green]ok[/]")


@app.command()
def show(config: Config = None, json: Json = False) -> None:
    """The configuration as it takes effect."""
    filled = settings.shown(settings.load(config))
    if json:
        print_json(filled)
        return
    for section, content in filled.items():
        for table in content if isinstance(content, list) else [content]:
            title = f"[[{section}]]" if isinstance(content, list) else f"[{section}]"
            console.print(title, style="bold", highlight=False, markup=False)
            for key, value in table.items():
                console.print(f"{key} = {_toml(value)}", highlight=False, markup=False, soft_wrap=True)
            console.print()


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # of the rest settings hold what JSON and TOML write alike
    return codec.dumps(value, ensure_ascii=False)
