"""`cachestore replay`: what would policies and tiers have hit on a trace?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table as Made
from rich.text import Text

from cachestore import settings
from cachestore.cli.output import Config, Json, console, error_console, print_json, table
from cachestore.config import Table
from cachestore.errors import ConfigError
from cachestore.eviction import EVICTIONS
from cachestore.registry import nearest
from cachestore.replay.alone import Alone
from cachestore.replay.base import Advance, Replayer
from cachestore.replay.comparing import Row, compare, replays, spread
from cachestore.replay.plot import check_plot, draw
from cachestore.replay.through import DEFAULT_TABLES, Through
from cachestore.replay.trace import read_trace

FEW, MANY = 5, 13
"""Capacities for a table and for a picture, where none are given."""


def replay(
    trace: Annotated[str, typer.Argument(help="A trace in the Mooncake format; - for standard input.")],
    index_only: Annotated[bool, typer.Option("--index-only", help="The policy alone: no store, no payload.")] = False,
    policy: Annotated[
        str, typer.Option(help="Eviction policies, with commas. Default: the configuration's; all with --index-only.")
    ] = "",
    capacity: Annotated[str, typer.Option(help="Blocks that the first tier holds, with commas.")] = "",
    block_bytes: Annotated[int, typer.Option(help="Bytes of a synthetic block, a multiple of 8.")] = 4096,
    plot: Annotated[Path | None, typer.Option(help="Draw hit rate over capacity into this .png file.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Replay a trace of requests; prints hit rates beside LRU, the optimum and the infinite cache.

    Without a configuration the tiers are memory and an embedded Redis. What is written to them is removed at the end.
    """
    tables = settings.load(config) if config is not None else DEFAULT_TABLES
    policies, capacities = _policies(policy, tables, index_only), _capacities(capacity)
    way: Replayer = Alone(tables) if index_only else Through(tables, block_bytes)
    if plot is not None:
        check_plot(plot)
    read = read_trace(trace)
    chosen = capacities or spread(read, MANY if plot is not None else FEW)
    with _progress(replays(policies, chosen, way) * read.blocks, json) as advance:
        rows = list(compare(read, policies, chosen, way, advance))
    if plot is not None:
        draw(rows, read, plot)
    if json:
        about = {"trace": read.name, "requests": len(read.requests), "blocks": read.blocks, "index_only": index_only}
        print_json({"rows": [asdict(row) for row in rows], **about})
    else:
        console.print(_table(rows, f"{read.name}: {len(read.requests):,} requests, {read.blocks:,} blocks"))
        for row in rows:
            _tell(row)
    if any(row.wrong or not row.sums_hold for row in rows):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(replay)


def _policies(text: str, tables: Table, every: bool) -> list[str]:
    known = EVICTIONS.names()
    if not text:
        return known if every else [settings.shown(tables)["eviction"]["name"]]
    chosen = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"--policy: {name!r} is unknown; {nearest(name, known)}")
    return chosen


def _capacities(text: str) -> list[int]:
    try:
        chosen = sorted({int(word) for word in text.split(",")}) if text else []
    except ValueError:
        raise ConfigError(f"--capacity: {text!r} is no list of numbers; write for example 3000,10000") from None
    if chosen and chosen[0] < 1:
        raise ConfigError(f"--capacity: a cache holds at least 1 block, got {chosen[0]}")
    return chosen


@contextmanager
def _progress(blocks: int, quiet: bool) -> Iterator[Advance]:
    """A bar on standard error, if a person looks at it."""
    columns = (TextColumn("replaying"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    hidden = quiet or not error_console.is_terminal
    with Progress(*columns, console=error_console, transient=True, disable=hidden) as progress:
        task = progress.add_task("replay", total=blocks)
        yield lambda more: progress.advance(task, more)


def _table(rows: Sequence[Row], title: str) -> Made:
    tiers = [f">in {tier}" for tier in rows[0].tiers]
    made = table(
        title, ">capacity", "policy", ">hit rate", *tiers, ">LRU", ">optimum", ">infinite", ">gap closed", ">blocks/s"
    )
    for row in rows:
        rates = (row.hit_rate, *row.tiers.values(), row.lru, row.optimum, row.infinite)
        gap = "" if row.gap is None else f"{row.gap:.2f}"
        made.add_row(
            f"{row.capacity:,}", row.policy, *(f"{rate:.2%}" for rate in rates), gap, f"{row.blocks_per_second:,}"
        )
    return made


def _tell(row: Row) -> None:
    """What must not be overlooked."""
    what = [f"blocks that came back other than they were put: {row.wrong}"] if row.wrong else []
    what += [f"blocks that were not kept: {row.not_kept}"] if row.not_kept else []
    what += [] if row.sums_hold else ["the store's figures DO NOT ADD UP"]
    if what:
        console.print(Text(f"{row.policy} at {row.capacity:,}: {'; '.join(what)}", "bold"))
