"""`cachestore serve`: one store in this process."""

import signal
from typing import Annotated

import typer

from cachestore import settings
from cachestore.cli.output import Config, Json, console, print_json
from cachestore.cluster.host import StoreHost, keep_what_is
from cachestore.signals import await_signal
from cachestore.store.settings import StoreSettings


def serve(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="Instead of service.port; 0 picks a free one.")] = None,
    json: Json = False,
) -> None:
    """Serve one store over gRPC until it is interrupted. No Ray, no workers."""
    tables = settings.load(config)
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: came.append(number))
    name = tables.get("store", {}).get("node", StoreSettings.node)
    host = StoreHost(
        tables, name, port,
        # one that was drained has nothing left to do
        ended=lambda: came.append(signal.SIGTERM),
        # one of several serves what it holds, whether or not there is a Redis at the moment
        patient="directory" in tables,
    )  # fmt: skip
    keep_what_is()
    try:
        if json:
            print_json({"address": host.address(), "tiers": host.tiers})
        else:
            tiers = ", ".join(host.tiers)
            console.print(f"serving [bold]{tiers}[/] at [bold]{host.address()}[/]; end with Ctrl-C")
        await_signal(came)
    finally:
        host.close()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)
