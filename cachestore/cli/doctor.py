"""`cachestore doctor`: does this installation work, and do two stores agree?"""

from itertools import chain, pairwise
from typing import Annotated

import typer
from rich.text import Text

from cachestore.cli import checks, cluster_checks
from cachestore.cli.output import Config, Json, Timeout, console, print_json, table
from cachestore.service.address import check_address


def doctor(
    endpoints: Annotated[list[str] | None, typer.Argument(help="Running stores; two are also compared.")] = None,
    config: Config = None,
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster", help="All nodes of the cluster that the first store is of, in place of this machine."
        ),
    ] = False,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """Check versions, golden vectors, shared memory, port, a round trip per tier; and the stores named.

    With --cluster: whether all nodes answer, know each other, and fit together, and whether the directory is right.
    """
    named = endpoints or []
    for address in named:
        check_address(address)
    if cluster:
        asked = [cluster_checks.cluster(named[0] if named else None, config, timeout)]
    else:
        asked = [checks.installation(checks.tables_of(config))]
    asked += [checks.endpoint(address) for address in named]
    asked += [checks.agreement(first, second) for first, second in pairwise(named)]
    results = list(checks.run(chain.from_iterable(asked)))
    well = all(result.ok for result in results)
    if json:
        print_json({"ok": well, "checks": [result._asdict() for result in results]})
    else:
        made = table("doctor", "check", "", "detail")
        for result in results:
            mark = "[red]FAILED[/]" if not result.ok else "[yellow]advice[/]" if result.advice else "[green]ok[/]"
            # as text: names of extras stand in brackets, which the console would take for its markup
            made.add_row(Text(result.name), mark, Text(result.detail))
        console.print(made)
    if not well:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)
