"""`python -m decode_worker --config FILE --store ADDRESS`: a decode worker until it is told to end."""

from pathlib import Path
from typing import Annotated

import typer

from decode_worker.server import DecodeServer
from prefill_worker.process import run, tables_of


def main(
    config: Annotated[Path, typer.Option(help="TOML with the sections engine and decode_worker.")],
    store: Annotated[str, typer.Option(help="Address of the store: host:port or unix:/path.")],
    name: Annotated[str, typer.Option(help="This worker's name in the cluster map.")] = "decode-0",
    node: Annotated[str, typer.Option(help="The node it runs on.")] = "local",
    port: Annotated[int | None, typer.Option(help="In place of decode_worker.port.")] = None,
) -> None:
    """Generates tokens behind prompts, on KV from prefill workers and the store."""
    raise typer.Exit(
        run(lambda: DecodeServer(tables_of(config, "decode_worker", port), store=store, name=name, node=node))
    )


if __name__ == "__main__":
    typer.run(main)
