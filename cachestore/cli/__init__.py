"""The command line: the composition root, above everything it puts together.

serve    one store in this process, without Ray
up/down  store and workers on Ray
stats, lookup, clear
doctor   does this installation work, and do two stores agree?
config   check and show
demo     all of it, on real input
"""

import sys
from typing import Any

import typer

from cachestore.cli import cluster, config, demo, doctor, serve, store
from cachestore.cli.output import error_console
from cachestore.errors import CacheStoreError, ConfigError

app = typer.Typer(
    help="A KV-cache store for large language models.", no_args_is_help=True, pretty_exceptions_enable=False
)
for commands in (serve, cluster, store, doctor, demo):
    commands.register(app)
app.add_typer(config.app, name="config")


def main() -> Any:
    """Runs a command. Errors of ours are one line on standard error: exit status 2 for configuration, else 1."""
    try:
        return app()
    except CacheStoreError as error:
        error_console.print(f"[bold red]error[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
