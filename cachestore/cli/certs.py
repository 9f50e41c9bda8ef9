"""`cachestore certs`: certificates for trying TLS out."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from cachestore.cli.output import Json, console, print_json, print_verbatim
from cachestore.service.auth import certificates
from cachestore.service.auth.certificates import Made

ALWAYS = ("localhost", "127.0.0.1", "::1")


def certs(
    folder: Annotated[Path, typer.Argument(help="Where the files go; only this user may read it.")],
    name: Annotated[
        list[str] | None,
        typer.Option(help="A host name or address under which clients reach the store; several. At first this host's."),
    ] = None,
    client: Annotated[
        list[str] | None, typer.Option(help="A client that gets a certificate with this name; several.")
    ] = None,
    days: Annotated[float, typer.Option(help="How long the certificates hold; the authority holds ten years.")] = 90.0,
    renew: Annotated[
        bool, typer.Option("--renew", help="Replace what --name and --client say, or else all, as they are.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a development CA, certificates for a server and its clients, and a gateway's key.

    Further clients and renewals come from the authority that is there already.
    """
    folder = folder.absolute()
    if not renew and not Made(folder).ca.exists():
        name, client = name or [socket.gethostname()], client or ["client"]
    names = [*name, *ALWAYS] if name else []
    made = (certificates.renew if renew else certificates.make)(folder, names, client or [], days=days)
    if json:
        print_json({"folder": made.folder, "names": made.names, "files": sorted(map(str, _files(made)))})
        return
    server = [f"a server ({', '.join(made.names)})"] if made.names else []
    what = ", ".join([*server, *made.clients])
    console.print(f"made in [bold]{folder}[/], for {what}; keys are readable by this user alone\n", soft_wrap=True)
    if renew:
        console.print("Servers take them up while they run; clients when they start, or once the old ones are refused.")
    else:
        _explain(made)
    console.print("For development: whoever has ca.key can be anybody here.", style="dim")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(certs)


def _files(made: Made) -> list[Path]:
    server = [made.cert(), made.key()] if made.names else []
    clients = [path(name) for name in made.clients for path in (made.cert, made.key)]
    # the gateway's may have gone where they are needed
    gateway = [path for path in (made.gateway_key, made.gateway_public) if path.exists()]
    return [made.ca, *gateway, *server, *clients]


def _explain(made: Made) -> None:
    console.print("[bold]the store[/]:\n")
    if made.names:
        print_verbatim(
            "[service]",
            f'tls_cert = "{made.cert()}"',
            f'tls_key = "{made.key()}"',
            f'client_ca = "{made.ca}"',
            f'# gateway_key = "{made.gateway_public}"',
        )
    for name in made.clients:
        print_verbatim(
            "[[service.identities]]",
            f'name = "{name}"',
            'role = "writer"  # reader, writer, delegate, peer or admin',
            f'certificate = "{name}"  # or a token: cachestore token new {name}',
        )
    for name in made.clients:
        console.print(f"[bold]{name}[/], in its environment:\n")
        print_verbatim(
            f"export CACHESTORE_CA={made.ca}",
            f"export CACHESTORE_CERT={made.cert(name)} CACHESTORE_KEY={made.key(name)}",
        )
