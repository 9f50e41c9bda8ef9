"""`python -m gateway --config FILE --store ADDRESS`: a gateway without Ray, until it is told to end."""

import logging
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from cachestore.config import read
from cachestore.errors import CacheStoreError
from gateway.app import create_app
from gateway.gateway import Gateway
from gateway.settings import GatewaySettings
from gateway.tls import GatewayTls

BAD_CONFIGURATION = 2


class _Server(uvicorn.Server):
    """Says where it listens, in the first line that is printed, as the workers do."""

    def __init__(self, config: uvicorn.Config, settings: GatewaySettings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"gateway at {self._settings.url(port)}", flush=True)


def main(
    config: Annotated[Path, typer.Option(help="TOML with the sections engine and gateway.")],
    store: Annotated[list[str], typer.Option(help="Address of a store; again for each further one.")],
) -> None:
    """Serves OpenAI's interface in front of the decode workers in the stores' cluster maps."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        gateway = Gateway.of(read(config), store)
        gateway.keys.open()
        tls = GatewayTls(gateway.settings)
        if gateway.settings.tls:
            tls.open()
    except CacheStoreError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(BAD_CONFIGURATION) from error
    settings = gateway.settings
    server = _Server(
        uvicorn.Config(
            create_app(gateway), host=settings.host, port=settings.port, log_config=None, access_log=False,
            timeout_graceful_shutdown=5, server_header=False,
            ssl_context_factory=(lambda *_: tls.context()) if settings.tls else None,
        ),
        settings,
    )  # fmt: skip
    server.run()
    raise typer.Exit(0 if server.started else 1)


if __name__ == "__main__":
    typer.run(main)
