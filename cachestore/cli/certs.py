"""`cachestore certs`: certificates for trying TLS out."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from cachestore.cli.output import Json, console, print_json, print_verbatim
from cachestore.service.auth.certificates import Made, make

ALWAYS = ("localhost", "127.0.0.1", "::1")


def certs(
    folder: Annotated[Path, typer.Argument(help="Where the files go; only this user may read it.")],
    name: Annotated[
        list[str] | None, typer.Option(help="A host name or address under which clients reach the store; several.")
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="A client that gets a certificate with this name; several.")
    ] = None,
    days: Annotated[float, typer.Option(help="How long the certificates hold; the authority holds ten years.")] = 90.0,
    renew: Annotated[bool, typer.Option("--renew", help="Replace the certificates, by the same authority.")] = False,
    json: Json = False,
) -> None:
    """Make a development CA, certificates for a server and its clients, and a gateway's key.

    Further clients and renewals come from the authority that is there already.
    """
    names = list(dict.fromkeys([*(name or [socket.gethostname()]), *ALWAYS]))
    made = make(folder.absolute(), names, client or ["client"], days=days, renew=renew)
    if json:
        files = [made.ca, made.cert(), made.key(), made.gateway_key, made.gateway_public]
        files += [path(name) for name in made.clients for path in (made.cert, made.key)]
        print_json({"folder": made.folder, "names": names, "files": sorted(map(str, files))})
        return
    _explain(made, names)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(certs)


def _explain(made: Made, names: list[str]) -> None:
    first = made.clients[0]
    console.print(f"made in [bold]{made.folder}[/], for {', '.join(names)}; keys are readable by this user alone\n")
    console.print("[bold]the store[/], which takes renewed files up while it runs:\n")
    print_verbatim(
        "[service]",
        f'tls_cert = "{made.cert()}"',
        f'tls_key = "{made.key()}"',
        f'client_ca = "{made.ca}"',
        f'# gateway_key = "{made.gateway_public}"',
        "",
        "[[service.identities]]",
        f'name = "{first}"',
        'role = "writer"  # reader, writer, delegate or admin',
        f'certificate = "{first}"  # or a token: cachestore token new {first}',
    )
    console.print("[bold]a client[/], in its environment:\n")
    print_verbatim(
        f"export CACHESTORE_CA={made.ca}",
        f"export CACHESTORE_CERT={made.cert(first)} CACHESTORE_KEY={made.key(first)}",
    )
    console.print("For development: whoever has ca.key can be anybody here.", style="dim")
