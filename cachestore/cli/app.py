"""The commands put together, and how their errors are told."""

import os
import sys
from typing import Any

import typer
from rich.text import Text

from cachestore.cli import (
    certs,
    cluster,
    config,
    demo,
    doctor,
    health,
    nodes,
    pins,
    replay,
    serve,
    status,
    store,
    token,
)
from cachestore.cli.output import error_console
from cachestore.errors import CacheStoreError, ConfigError

app = typer.Typer(
    help="A KV-cache store for large language models.", no_args_is_help=True, pretty_exceptions_enable=False
)
for commands in (serve, cluster, store, pins, nodes, health, status, doctor, certs, replay, demo):
    commands.register(app)
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")


SHOW_BUGS = "CACHESTORE_TRACEBACK"


def run() -> Any:
    """Runs a command. Errors are one line on standard error: exit status 2 for configuration, else 1."""
    try:
        return app()
    except CacheStoreError as error:
        _say(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except Exception as error:
        if os.environ.get(SHOW_BUGS):
            raise
        _say(f"a bug of ours, please report it: {type(error).__name__}: {error} (with {SHOW_BUGS}=1 it says where)")
        sys.exit(1)


def _say(what: str) -> None:
    # as text: names of sections and extras stand in brackets, which the console would take for its markup
    line = Text.assemble(("error", "bold red"), ": ", " ".join(what.split()))
    error_console.print(line, highlight=False, soft_wrap=True)
