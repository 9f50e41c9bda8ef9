"""`cachestore stats`, `lookup` and `clear`: a running store, asked over gRPC."""

from typing import Annotated

import typer

from cachestore.cli.figures import as_json, as_tables
from cachestore.cli.output import DEFAULT_ADDRESS, Address, Json, Timeout, console, print_json
from cachestore.cli.prompts import names_blocks
from cachestore.hashing import Chain
from cachestore.metrics import Figure
from cachestore.service.client import RemoteStore


def stats(address: Address = DEFAULT_ADDRESS, timeout: Timeout = 5.0, json: Json = False) -> None:
    """Every figure the store counts, and whether the sums hold."""
    with RemoteStore(address) as store:
        figures = sorted(store.stats(timeout=timeout), key=_order)
    if json:
        print_json(as_json(figures))
        return
    for made in as_tables(figures):
        console.print(made)


@names_blocks
def lookup(
    asked: Chain,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """How much of a prompt is stored, and in which tiers. Changes nothing."""
    with RemoteStore(address) as store:
        found = store.lookup(asked, timeout=timeout)
    if json:
        runs = [run._asdict() for run in found.runs]
        print_json({"blocks": len(asked), "ready": found.ready, "writing": found.writing, "runs": runs})
        return
    where = ", ".join(f"{run.blocks} in {run.tier} on {run.node}" for run in found.runs)
    console.print(f"{found.ready} of {len(asked)} blocks are ready{': ' + where if where else ''}")


def clear(
    tier: Annotated[str, typer.Option(help="Only this tier.")] = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 30.0,
    json: Json = False,
) -> None:
    """Remove all blocks of the namespace, from one tier or from all."""
    with RemoteStore(address) as store:
        removed = store.clear(tier, timeout=timeout)
    if json:
        print_json({"removed": removed})
    else:
        console.print(f"removed {removed} blocks from {tier or 'all tiers'}")


def _order(figure: Figure) -> tuple[str, list[tuple[str, float, str]]]:
    """By name and labels; the bounds of a histogram are numbers."""
    at = [(label, float(value) if label == "le" else 0.0, value) for label, value in figure.labels]
    # a histogram's buckets belong together, whichever of its labels comes first
    return figure.name, sorted(at, key=lambda item: item[0] == "le")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (stats, lookup, clear):
        app.command()(command)
