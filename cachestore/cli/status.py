"""`cachestore status`: which stores, workers and gateway are there, and how busy they are."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.text import Text

from cachestore.cli.health import SERVING, statuses
from cachestore.cli.output import DEFAULT_ADDRESS, Json, Timeout, console, print_json, table
from cachestore.cluster import gateway_health, supervisor
from cachestore.errors import CacheStoreError
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member


@dataclass(frozen=True)
class Part:
    """One process of the cluster. `queue` counts requests waiting or running there; a store has none."""

    role: str
    name: str
    address: str
    node: str
    queue: int | None
    health: str


def status(
    address: Annotated[
        str | None, typer.Option("--address", "-a", help="A store to ask instead of those that `up` started.")
    ] = None,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """What is up, how it is and how busy. Exit status 1 if something does not serve."""
    found = supervisor.running() or {}
    stores = {"": address} if address else found.get("stores") or {"": DEFAULT_ADDRESS}
    parts = [part for node, at in stores.items() for part in _beside(node, at, timeout)]
    if found.get("gateway") and not address:
        said, requests = gateway_health.health(found["gateway"], found.get("gateway_cert", ""), timeout)
        parts.append(Part("gateway", "gateway", found["gateway"], "", requests, said))
    well = all(part.health == SERVING for part in parts)
    if json:
        print_json({"ok": well, "parts": [asdict(part) for part in parts]})
    else:
        made = table("status", "role", "name", "address", "node", ">queue", "")
        for part in parts:
            cells = (part.role, part.name, part.address, part.node, "" if part.queue is None else str(part.queue))
            made.add_row(*map(Text, cells), f"[{'green' if part.health == SERVING else 'red'}]{part.health}[/]")
        console.print(made)
    if not well:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(status)


def _beside(node: str, address: str, timeout: float) -> list[Part]:
    """The store at this address, and the workers in its cluster map."""
    with RemoteStore(address) as store:
        try:
            health = statuses(address, timeout, every=False)[""]
            _, known = store.members(timeout=timeout)
        except CacheStoreError as error:
            return [Part("store", "store", address, node[:12], None, error.reason)]
    members = [each for each in known if each.role != "store"]
    with ThreadPoolExecutor(max(1, len(members))) as asking:
        workers = list(asking.map(lambda each: _health(each, timeout), members))
    return [Part("store", "store", address, node[:12], None, health), *workers]


def _health(member: Member, timeout: float) -> Part:
    """A worker of the map, which said a moment ago that it is there, and what it says now."""
    try:
        health = statuses(member.address, timeout, every=False)[""]
    except CacheStoreError as error:
        health = error.reason
    return Part(member.role, member.name, member.address, member.node, member.queue, health)
