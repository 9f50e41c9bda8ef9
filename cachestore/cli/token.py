"""`cachestore token`: who a caller is, and for whom a delegate acts."""

from pathlib import Path
from typing import Annotated

import typer

from cachestore.cli.output import Json, console, print_json, print_verbatim
from cachestore.service.auth.files import write_private
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.auth.tokens import digest_of, new_token, read_signing_key, sign

app = typer.Typer(help="Make the token of a caller, or sign one for a tenant.", no_args_is_help=True)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The caller's name.")],
    role: Annotated[str, typer.Option(help="reader, writer, delegate, peer or admin.")] = "writer",
    namespace: Annotated[str, typer.Option(help="Where its blocks live; a delegate needs none.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="Write the token there, for this user alone, instead of showing it.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a caller's token. The store gets its digest only, the caller the token; it is shown this once."""
    token = new_token()
    digest = f"sha256:{digest_of(token).hex()}"
    identity = IdentitySettings(name, role, namespace, digest)
    if file is not None:
        write_private(file, f"{token}\n".encode())
    if json:
        where = {"token": token} if file is None else {"file": str(file.absolute())}
        print_json({"name": name, "role": role, "namespace": identity.identity().namespace, "digest": digest, **where})
        return
    console.print("[bold]the store[/]:\n")
    space = [f'namespace = "{namespace}"'] if namespace else []
    print_verbatim("[[service.identities]]", f'name = "{name}"', f'role = "{role}"', *space, f'token = "{digest}"')
    console.print("[bold]the caller[/], in its environment:\n")
    print_verbatim(
        f"export CACHESTORE_TOKEN={token}" if file is None else f"export CACHESTORE_TOKEN_FILE={file.absolute()}"
    )


@app.command()
def tenant(
    namespace: Annotated[str, typer.Argument(help="The tenant's namespace.")],
    key: Annotated[Path, typer.Option(help="The gateway's private key; `cachestore certs` makes one.")],
    role: Annotated[str, typer.Option(help="reader or writer.")] = "writer",
    audience: Annotated[str, typer.Option(help="The service.audience of the stores it is for.")] = "cachestore",
    ttl: Annotated[float, typer.Option(help="Seconds it holds, 3600 at most.")] = 300.0,
    json: Json = False,
) -> None:
    """Sign a tenant's token as the gateway does, for development: a delegate brings it and acts for the tenant.

    In its environment it is CACHESTORE_TENANT.
    """
    signed = sign(read_signing_key(str(key), "--key"), namespace, role=role, audience=audience, ttl=ttl)
    if json:
        print_json({"token": signed})
    else:
        print(signed)
