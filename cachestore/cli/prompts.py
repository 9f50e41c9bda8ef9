"""How a user names blocks: by a prompt, by its tokens, or by their keys."""

from collections.abc import Callable
from inspect import Signature, signature
from typing import Annotated, Any

import typer

from cachestore import settings
from cachestore.cli.output import Config
from cachestore.config import build
from cachestore.errors import InvalidArgument
from cachestore.hashing import KEY_BYTES, Chain, chain

Command = Callable[..., None]

Text = Annotated[str, typer.Argument(help="A prompt; the configuration names its model.")]
Tokens = Annotated[str, typer.Option(help="Token ids instead, with commas; the configuration names the model.")]
Keys = Annotated[str, typer.Option(help="Block keys instead, as hex, with commas.")]
Fingerprint = Annotated[str, typer.Option(help="The fingerprint that the keys grow from, as hex.")]


def names_blocks(command: Command) -> Command:
    """The command, called with a chain first, that asks its user for the chain in one of these ways instead."""

    def run(
        text: Text = "",
        tokens: Tokens = "",
        keys: Keys = "",
        fingerprint: Fingerprint = "",
        config: Config = None,
        **others: Any,
    ) -> None:
        command(_chain(text, tokens, keys, fingerprint, config), **others)

    *ours, _ = signature(run).parameters.values()
    _, *theirs = signature(command).parameters.values()
    # what typer makes the command line of
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = Signature([*ours, *theirs])  # type: ignore[attr-defined]
    return run


def _chain(text: str, tokens: str, keys: str, fingerprint: str, config: Config) -> Chain:
    """The blocks that were named in exactly one of these ways."""
    if sum(map(bool, (text, tokens, keys))) != 1:
        raise InvalidArgument("give exactly one of: a text, --tokens, --keys")
    return _of_keys(keys, fingerprint) if keys else _of_prompt(text, tokens, config)


def _hex(name: str, value: str) -> bytes:
    try:
        given = bytes.fromhex(value.strip())
    except ValueError:
        given = b""
    if len(given) != KEY_BYTES:
        raise InvalidArgument(f"{name} must be {2 * KEY_BYTES} hex digits ({KEY_BYTES} bytes), got {value!r}")
    return given


def _of_keys(keys: str, fingerprint: str) -> Chain:
    if not fingerprint:
        raise InvalidArgument("--keys needs --fingerprint: a key is only right under the spec it was made for")
    return Chain(_hex("--fingerprint", fingerprint), tuple(_hex("each of --keys", key) for key in keys.split(",")))


def _of_prompt(text: str, tokens: str, config: Config) -> Chain:
    from cachestore.engine.model import model_spec, pinned, tokenizer
    from cachestore.engine.settings import EngineSettings

    tables = settings.load(config)
    settings.require_engine(tables)
    engine = pinned(build(EngineSettings, tables["engine"], "engine"))
    if text:
        ids = tokenizer(engine).encode(text)
    else:
        try:
            ids = [int(token) for token in tokens.split(",")]
        except ValueError:
            raise InvalidArgument("--tokens must be integers with commas between them") from None
    return chain(model_spec(engine), ids)
