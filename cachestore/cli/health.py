"""`cachestore health`: does a store serve, and which of its tiers and paths do?"""

from typing import Annotated

import grpc
import typer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from rich.text import Text

from cachestore.cli.output import DEFAULT_ADDRESS, Json, Timeout, console, print_json, table
from cachestore.deadline import Deadline
from cachestore.service.auth.credentials import Credentials
from cachestore.service.channel import open_channel
from cachestore.service.status import error_of

SERVING = "SERVING"


def health(
    address: Annotated[str, typer.Argument(help="The store: host:port or unix:/path.")] = DEFAULT_ADDRESS,
    every: Annotated[bool, typer.Option("--all", help="Fail also if a single tier or path does not serve.")] = False,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """What a store says of itself, its tiers and its paths. Exit status 1 if it does not serve."""
    said = statuses(address, timeout)
    well = all(status == SERVING for name, status in said.items() if every or not name)
    if json:
        print_json({"ok": well, "statuses": said})
    else:
        made = table("health", "what", "")
        for name, status in said.items():
            made.add_row(Text(name or "the store"), f"[{'green' if status == SERVING else 'red'}]{status}[/]")
        console.print(made)
    if not well:
        raise typer.Exit(1)


def statuses(address: str, timeout: float) -> dict[str, str]:
    """Every status by its name, that of the whole, which is empty, first. Raises if the store does not say."""
    deadline, credentials = Deadline.after(timeout), Credentials.from_environment()
    shown = credentials.metadata(address)
    with open_channel(address, credentials) as channel:
        stub = HealthStub(channel)
        try:
            whole = stub.Check(HealthCheckRequest(), timeout=deadline.remaining(), metadata=shown)
            found = stub.List(HealthListRequest(), timeout=deadline.remaining(), metadata=shown).statuses
        except grpc.RpcError as error:
            raise error_of(error, "health", address) from error
    said = {"": whole.status} | {name: found[name].status for name in sorted(found) if name}
    return {name: HealthCheckResponse.ServingStatus.Name(status) for name, status in said.items()}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(health)
