"""`cachestore pin`, `unpin` and `pins`: prefixes that are to stay in memory for a while."""

from contextlib import closing
from datetime import timedelta
from typing import Annotated

import typer

from cachestore.cli.output import DEFAULT_ADDRESS, Address, Json, Timeout, console, human_bytes, print_json, table
from cachestore.cli.prompts import names_blocks
from cachestore.hashing import Chain
from cachestore.service import convert
from cachestore.service.client import RemoteStore
from cachestore.service.connection import Connection
from cachestore.wire import store_pb2 as wire

Ttl = Annotated[float, typer.Option(help="Seconds for which they stay; a longer pin that is there stays as it is.")]


@names_blocks
def pin(
    asked: Chain,
    ttl: Ttl = 3600.0,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """Keep the stored blocks of a prompt in memory, as far as the quota goes."""
    request = wire.PinRequest(chain=convert.chain_message(asked), ttl_ms=convert.milliseconds(ttl, "--ttl"))
    with closing(Connection(address)) as connection:
        connection.open()
        answer = connection.call("Pin", request, timeout)
    if json:
        left = answer.quota_left_bytes
        print_json({"blocks": len(asked), "pinned": answer.blocks, "ttl": ttl, "quota_left_bytes": left})
        return
    console.print(
        f"pinned {answer.blocks} of {len(asked)} blocks for {timedelta(seconds=ttl)}; "
        f"{human_bytes(answer.quota_left_bytes)} of the quota are left"
    )


@names_blocks
def unpin(
    asked: Chain,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """End the pins of a prompt's blocks; they stay until others need the room."""
    with RemoteStore(address) as store:
        ended = store.unpin(asked, timeout=timeout)
    if json:
        print_json({"blocks": len(asked), "unpinned": ended})
    else:
        console.print(f"unpinned {ended} of {len(asked)} blocks")


def pins(address: Address = DEFAULT_ADDRESS, timeout: Timeout = 5.0, json: Json = False) -> None:
    """Every pin of the namespace, and how long it still holds."""
    with RemoteStore(address) as store:
        found = store.pins(timeout=timeout)
    if json:
        listed = [{"key": pin.key.hex(), "ttl": pin.ttl, "bytes": pin.nbytes} for pin in found]
        print_json({"pins": listed, "bytes": sum(pin.nbytes for pin in found)})
        return
    made = table(f"{len(found)} pins, {human_bytes(sum(pin.nbytes for pin in found))}", "key", ">bytes", ">time left")
    for pin in found:
        made.add_row(pin.key.hex(), human_bytes(pin.nbytes), str(timedelta(seconds=round(pin.ttl))))
    console.print(made)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (pin, unpin, pins):
        app.command()(command)
