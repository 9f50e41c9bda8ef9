"""`python -m prefill_worker --config FILE --store ADDRESS`: a prefill worker until it is told to end."""

from pathlib import Path
from typing import Annotated

import typer

from prefill_worker.process import run, tables_of
from prefill_worker.server import PrefillServer


def main(
    config: Annotated[Path, typer.Option(help="TOML with the sections engine and prefill_worker.")],
    store: Annotated[str, typer.Option(help="Address of the store: host:port or unix:/path.")],
    name: Annotated[str, typer.Option(help="This worker's name in the cluster map.")] = "prefill-0",
    node: Annotated[str, typer.Option(help="The node it runs on.")] = "local",
    port: Annotated[int | None, typer.Option(help="In place of prefill_worker.port.")] = None,
) -> None:
    """Computes KV of prompts and writes it into the store."""
    raise typer.Exit(
        run(lambda: PrefillServer(tables_of(config, "prefill_worker", port), store=store, name=name, node=node))
    )


if __name__ == "__main__":
    typer.run(main)
