"""`cachestore nodes`, `drain` and `rebalance`: which nodes make up a cluster, and how one leaves it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cachestore.cli.members import Seen, named, operating, seen
from cachestore.cli.output import Json, Timeout, console, error_console, human_bytes, print_json, table
from cachestore.errors import CacheStoreError, InvalidArgument, Unavailable
from cachestore.service.operation import Moved, State

POLL_SECONDS = 0.2

SAY_SECONDS = 5.0
"""How often it is said how far a node is, if that has changed."""

OVER = 1.1
"""Who holds more than so many times the mean gives some of it to others."""

Entry = Annotated[
    str | None, typer.Option("--address", "-a", help="Any store of the cluster, instead of those that `up` started.")
]
Deadline = Annotated[float, typer.Option("--deadline", help="Seconds for which blocks are moved.")]


def nodes(address: Entry = None, timeout: Timeout = 5.0, json: Json = False) -> None:
    """Every node of the cluster: where it is, how it is, what it holds. Exit status 1 if one does not answer."""
    found = seen(address, timeout)
    well = all(each.facts is not None for each in found)
    if json:
        print_json({"ok": well, "nodes": [_object(each) for each in found]})
    else:
        console.print(_table(found))
    if not well:
        raise typer.Exit(1)


def drain(
    node: Annotated[str, typer.Argument(help="Its name, as `cachestore nodes` shows it, or its address.")],
    deadline: Deadline = 300.0,
    force: Annotated[bool, typer.Option("--force", help="Also if durable blocks find no other place.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="It does not answer: the directory is to forget it.")] = False,
    address: Entry = None,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """Let a node leave: others get its durable blocks and those that are read, then it ends.

    Exit status 1 if it stays, or durable blocks were left.
    """
    found = seen(address, timeout)
    if dead:
        _forget(node, found, timeout, json)
        return
    leaving = named(found, node)
    if leaving.facts is None:
        raise Unavailable(
            f"{leaving.name or leaving.address} does not answer ({leaving.why}); if it is dead: cachestore drain "
            f"{leaving.name or leaving.address} --dead"
        )
    with operating(leaving.address) as operated:
        begun = operated.drain(_checked(deadline), force=force, timeout=timeout)
        told = _followed(leaving.name, begun, lambda: operated.drain(timeout=timeout), deadline)
    if json:
        print_json({"node": leaving.name, **asdict(told)})
    else:
        console.print(_report(f"{leaving.name} {'has left' if told.state is State.DRAINED else 'stays'}", told))
        if told.state is not State.DRAINED and told.why:
            console.print(Text(f"{told.why}, or leave them behind with --force"))
    if told.state is not State.DRAINED or told.durable_left:
        raise typer.Exit(1)


def rebalance(deadline: Deadline = 60.0, address: Entry = None, timeout: Timeout = 5.0, json: Json = False) -> None:
    """Let nodes that hold more than others hand over some of what is read most."""
    seconds = _checked(deadline)
    serving = [
        (each, each.facts.tiers[0].used)
        for each in seen(address, timeout)
        if each.facts is not None and each.facts.state is State.SERVING
    ]
    mean = sum(used for _, used in serving) / max(1, len(serving))
    asked: dict[str, Moved] = {}
    for each, used in serving:
        if used > OVER * mean:
            with operating(each.address) as operated:
                begun = operated.rebalance(seconds, round(used - mean), timeout=timeout)
                again = lambda operated=operated: operated.rebalance(timeout=timeout)  # noqa: E731
                asked[each.name] = _followed(each.name, begun, again, deadline)
    if json:
        print_json({"mean_bytes": round(mean), "nodes": {name: asdict(told) for name, told in asked.items()}})
        return
    for name, told in asked.items():
        console.print(_report(f"{name} handed over", told))
    if not asked:
        console.print(f"no node holds more than {OVER:g} times the mean, which is {human_bytes(mean)}")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (nodes, drain, rebalance):
        app.command()(command)


def _checked(deadline: float) -> float:
    if not 0 < deadline <= 86400:
        raise InvalidArgument(f"--deadline must be more than 0 seconds and at most a day, got {deadline:g}")
    return deadline


def _forget(node: str, found: list[Seen], timeout: float, json: bool) -> None:
    for each in found:
        if each.facts is not None and node in (each.name, each.address):
            raise InvalidArgument(
                f"--dead: {each.name} answers at {each.address}, and would join again; leave --dead out"
            )
    name = next((each.name for each in found if each.name and each.address == node), node)
    answering = [each for each in found if each.facts is not None]
    asked = max(answering, key=lambda each: each.facts is not None and each.facts.directory)
    with operating(asked.address) as operated:
        operated.forget(name, timeout=timeout)
    if json:
        print_json({"node": name, "forgotten": True})
    else:
        console.print(Text(f"the directory has forgotten {name}{f', which was at {node}' if name != node else ''}"))


def _followed(name: str, told: Moved, ask: Callable[[], Moved], deadline: float) -> Moved:
    """How it went in the end, however long that takes; a node that ends meanwhile has said all there is to say."""
    patience = time.monotonic() + deadline + 30.0
    said, say_at = -1, time.monotonic()
    while not told.done:
        moved = told.durable_moved + told.hot_moved
        if moved != said and time.monotonic() >= say_at:
            said, say_at = moved, time.monotonic() + SAY_SECONDS
            error_console.print(Text(f"{name}: {moved:,} block{'' if moved == 1 else 's'} moved …", "dim"))
        if time.monotonic() > patience:
            raise Unavailable(f"{name} is still {told.state} {deadline:g} s after it was asked; its log says why")
        time.sleep(POLL_SECONDS)
        try:
            told = ask()
        except CacheStoreError as error:
            raise Unavailable(f"{name} ended before it said how that went, or cannot be reached: {error}") from error
    return told


def _report(title: str, told: Moved) -> Table:
    made = table(title, "blocks", ">moved", ">left")
    made.add_row("durable", f"{told.durable_moved:,}", f"{told.durable_left:,}")
    made.add_row("read lately", f"{told.hot_moved:,}", f"{told.hot_left:,}")
    made.add_row("others had them", "", f"{told.elsewhere:,}")
    made.add_row("not read lately", "", f"{told.cold:,}")
    made.add_row("bytes", human_bytes(told.bytes_moved), "")
    return made


def _object(each: Seen) -> dict[str, Any]:
    """For programs."""
    if each.facts is None:
        return {"node": each.name, "address": each.address, "state": "", "why": each.why}
    facts = each.facts
    return {
        "node": each.name,
        "address": each.address,
        "incarnation": facts.incarnation.hex(),
        "state": facts.state,
        "release": facts.release,
        "age": facts.age,
        "directory": facts.directory,
        "tiers": {tier.name: {**tier._asdict(), "name": tier.name} for tier in facts.tiers},
    }


def _table(found: list[Seen]) -> Table:
    title = f"{len(found)} node{'' if len(found) == 1 else 's'}"
    made = table(title, "node", "address", "incarnation", "state", "tiers", ">blocks", ">age")
    for each in found:
        if each.facts is None:
            made.add_row(Text(each.name), Text(each.address), "", "[red]no answer[/]", Text(each.why), "", "")
            continue
        facts = each.facts
        tiers = "\n".join(
            f"{tier.name} {human_bytes(tier.used)} of {human_bytes(tier.capacity)}{'' if tier.healthy else ' (down)'}"
            for tier in facts.tiers
        )
        color = "green" if facts.state is State.SERVING else "yellow"
        blocks = "\n".join(f"{tier.blocks:,}" if tier.blocks else "" for tier in facts.tiers)
        made.add_row(
            Text(each.name), Text(each.address), facts.incarnation.hex(), f"[{color}]{facts.state}[/]", Text(tiers),
            blocks, str(timedelta(seconds=round(facts.age))),
        )  # fmt: skip
    return made
