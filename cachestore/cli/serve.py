"""`cachestore serve`: one store in this process."""

import signal
from dataclasses import replace
from threading import Event
from typing import Annotated

import typer

from cachestore import settings
from cachestore.cli.output import Config, Json, console, print_json
from cachestore.config import build
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose


def serve(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="Instead of service.port; 0 picks a free one.")] = None,
    json: Json = False,
) -> None:
    """Serve one store over gRPC until it is interrupted. No Ray, no workers."""
    tables = settings.load(config)
    service = build(ServiceSettings, tables.get("service", {}), "service")
    if port is not None:
        service = replace(service, port=port)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with compose(tables) as store, CacheStoreServer(store, service, store.settings.node) as server:
        tiers = [store.memory.name, *(tier.name for tier in store.cold)]
        if json:
            print_json({"address": server.address, "tiers": tiers})
        else:
            console.print(f"serving [bold]{', '.join(tiers)}[/] at [bold]{server.address}[/]; end with Ctrl-C")
        stop.wait()


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)
