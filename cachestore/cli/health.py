"""`cachestore health`: does a store serve, and which of its tiers and paths do?"""

from typing import Annotated

import grpc
import typer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from rich.text import Text

from cachestore.cli.output import DEFAULT_ADDRESS, Address, Json, Timeout, console, print_json, table
from cachestore.deadline import Deadline
from cachestore.service.auth.credentials import Credentials
from cachestore.service.channel import open_channel
from cachestore.service.preflight import Preflight
from cachestore.service.status import error_of

SERVING = "SERVING"


def health(
    every: Annotated[bool, typer.Option("--all", help="Its tiers and paths too; all of them must serve.")] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """Does a store serve, and with --all: do its tiers and paths? Exit status 1 if not."""
    said = statuses(address, timeout, every=every)
    well = all(status == SERVING for status in said.values())
    if json:
        print_json({"ok": well, "statuses": said})
    else:
        made = table("health", "what", "")
        for name, status in said.items():
            made.add_row(Text(name or "the store"), f"[{'green' if status == SERVING else 'red'}]{status}[/]")
        console.print(made)
    if not well:
        raise typer.Exit(1)


def statuses(address: str, timeout: float, *, every: bool) -> dict[str, str]:
    """The status of the whole, whose name is empty; then, with `every`, all others. Raises if the store does not say.

    The first is told to anybody who asks, the others to whom the store knows.
    """
    deadline, credentials = Deadline.after(timeout), Credentials.from_environment()
    shown = credentials.metadata(address)
    with open_channel(address, credentials) as channel:
        stub = HealthStub(channel)
        try:
            said = {"": stub.Check(HealthCheckRequest(), timeout=deadline.remaining(), metadata=shown).status}
            if every:
                found = stub.List(HealthListRequest(), timeout=deadline.remaining(), metadata=shown).statuses
                said |= {name: found[name].status for name in sorted(found) if name}
        except grpc.RpcError as error:
            Preflight(address, credentials).explain(error)
            raise error_of(error, "health", address) from error
    return {name: HealthCheckResponse.ServingStatus.Name(status) for name, status in said.items()}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(health)
