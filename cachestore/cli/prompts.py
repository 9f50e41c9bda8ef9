"""How a user names blocks: by a prompt, by its tokens, or by their keys."""

from typing import Annotated

import typer

from cachestore import settings
from cachestore.cli.output import Config
from cachestore.config import build
from cachestore.errors import InvalidArgument
from cachestore.hashing import Chain, chain

Text = Annotated[str, typer.Argument(help="A prompt; the configuration names its model.")]
Tokens = Annotated[str, typer.Option(help="Token ids instead, with commas; the configuration names the model.")]
Keys = Annotated[str, typer.Option(help="Block keys instead, as hex, with commas.")]
Fingerprint = Annotated[str, typer.Option(help="The fingerprint that the keys grow from, as hex.")]


def chain_of(text: str, tokens: str, keys: str, fingerprint: str, config: Config) -> Chain:
    """The blocks that were named in exactly one of these ways."""
    if sum(map(bool, (text, tokens, keys))) != 1:
        raise InvalidArgument("give exactly one of: a text, --tokens, --keys")
    return _of_keys(keys, fingerprint) if keys else _of_prompt(text, tokens, config)


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
