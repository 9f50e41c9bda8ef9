"""`cachestore stats`, `lookup` and `clear`: a running store, asked over gRPC."""

from typing import Annotated

import typer

from cachestore import settings
from cachestore.cli.figures import as_json, as_tables
from cachestore.cli.output import DEFAULT_ADDRESS, Address, Config, Json, Timeout, console, print_json
from cachestore.config import build
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, chain
from cachestore.service.client import RemoteStore


def stats(address: Address = DEFAULT_ADDRESS, timeout: Timeout = 5.0, json: Json = False) -> None:
    """Every figure the store counts, and whether the sums hold."""
    with RemoteStore(address) as store:
        figures = store.stats(timeout=timeout)
    if json:
        print_json(as_json(figures))
        return
    for made in as_tables(figures):
        console.print(made)


def lookup(
    text: Annotated[str, typer.Argument(help="A prompt; the configuration names its model.")] = "",
    tokens: Annotated[
        str, typer.Option(help="Token ids instead, with commas; the configuration names the model.")
    ] = "",
    keys: Annotated[str, typer.Option(help="Block keys instead, as hex, with commas.")] = "",
    fingerprint: Annotated[str, typer.Option(help="The fingerprint that the keys grow from, as hex.")] = "",
    config: Config = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 5.0,
    json: Json = False,
) -> None:
    """How much of a prompt is stored, and in which tiers. Changes nothing."""
    if sum(map(bool, (text, tokens, keys))) != 1:
        raise InvalidArgument("give exactly one of: a text, --tokens, --keys")
    asked = _of_keys(keys, fingerprint) if keys else _of_prompt(text, tokens, config)
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


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (stats, lookup, clear):
        app.command()(command)


def _hex(name: str, value: str) -> bytes:
    try:
        return bytes.fromhex(value.strip())
    except ValueError:
        raise InvalidArgument(f"{name} must be hex digits, got {value!r}") from None


def _of_keys(keys: str, fingerprint: str) -> Chain:
    if not fingerprint:
        raise InvalidArgument("--keys needs --fingerprint: a key is only right under the spec it was made for")
    return Chain(_hex("--fingerprint", fingerprint), tuple(_hex("--keys", key) for key in keys.split(",")))


def _of_prompt(text: str, tokens: str, config: Config) -> Chain:
    from cachestore.engine.model import model_spec, tokenizer
    from cachestore.engine.settings import EngineSettings

    tables = settings.load(config)
    settings.require_engine(tables)
    engine = build(EngineSettings, tables["engine"], "engine")
    if text:
        ids = tokenizer(engine).encode(text)
    else:
        try:
            ids = [int(token) for token in tokens.split(",")]
        except ValueError:
            raise InvalidArgument("--tokens must be integers with commas between them") from None
    return chain(model_spec(engine), ids)
