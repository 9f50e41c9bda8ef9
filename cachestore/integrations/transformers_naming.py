"""transformers: what names the KV of a model that is loaded already."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from huggingface_hub import constants

from cachestore.block import BlockSpec
from cachestore.engine.layers import text_config
from cachestore.engine.rotary import SHORT, longrope_switch
from cachestore.engine.spec import spec_of
from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.named import model_name, revision
from cachestore.integrations.transformers_loaded import State, adapted, check_state, compare, state_of

PLACEHOLDERS = tuple(f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))
"""Settings that name a token in whose place something else than a token's embedding is computed."""

OF_NO_KV = {"_name_or_path", "architectures", "dtype", "quantization_config", "transformers_version", "use_cache"}
"""What loading sets in a configuration, and what leaves KV alone or stands elsewhere in the spec."""

_known: WeakKeyDictionary[Any, tuple[State, str]] = WeakKeyDictionary()
"""By model how it was when its files were looked at, and the revision found: they may be another's since."""


def spec_of_model(model: Any, given: str, block_tokens: int) -> BlockSpec:
    """What makes KV compatible with that of `model`, whose revision is `given`, or that of its directory or commit.

    ConfigError or UnsupportedModel says what keeps it without a name, such as weights that are not in its directory.
    """
    config = model.config
    path = str(getattr(config, "name_or_path", ""))
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and not isinstance(quantised, dict):
        quantised = quantised.to_dict()
    return spec_of(
        config,
        model=model_name(path, config) or str(config.model_type),
        revision=_revision(model, path, given),
        dtype=str(model.dtype).removeprefix("torch."),
        block_tokens=block_tokens,
        weights=json.dumps(quantised, sort_keys=True, default=str) if quantised else "",
        rotary_regime=SHORT if longrope_switch(text_config(config)) else "",
    )


def placeholders(config: Any) -> frozenset[int]:
    """The tokens that stand for images, sound and films, of which no key tells what they are.

    UnsupportedModel for a model that takes such and does not say by which tokens.
    """
    text = text_config(config)
    named = (getattr(each, name, None) for each in (config, text) for name in PLACEHOLDERS)
    found = frozenset(token for token in named if isinstance(token, int))
    if text is not config and not found:
        raise UnsupportedModel(f"{config.model_type}: its configuration names no token for what is not text")
    return found


def _revision(model: Any, path: str, given: str) -> str:
    directory = Path(path) if path and Path(path).is_dir() else None
    if given:
        commit = next((each for each in _commits(path) if each.name == given), None)
        return revision(path, given, changed=_changed(model.config, directory or commit))
    if model in _known:
        state, found = _known[model]
        check_state(model, state)
        return found
    if adapted(model):
        raise UnsupportedModel("the model has an adapter loaded: give a revision that names weights and adapter")
    if directory is None:
        commit = next((each for each in _commits(path) if compare(model, each) == ("", 0)), None)
        found = revision(path, opened=commit.name if commit else "", changed=_changed(model.config, commit))
    else:
        found = revision(path, changed=_changed(model.config, directory))
        if differs := compare(model, directory).differs:
            raise ConfigError(
                f"revision: {differs} of the model is not what {directory} holds, since one of them was changed or the "
                "model was not loaded from there; give a revision that names the weights"
            )
    _known[model] = state_of(model), found
    return found


def _commits(hub_id: str) -> Iterator[Path]:
    """A model's commits in the hub's cache, that of the default branch first: several may have the same weights."""
    cached = Path(constants.HF_HUB_CACHE, f"models--{hub_id.replace('/', '--')}")
    main = cached / "refs" / "main"
    newest = main.read_text().strip() if main.is_file() else ""
    for commit in sorted(cached.glob("snapshots/*"), key=lambda each: (each.name != newest, each.name)):
        if (commit / "config.json").is_file():
            yield commit


def _changed(config: Any, directory: Path | None) -> dict[str, Any]:
    """The settings, by name, that are not as the configuration in `directory` says."""
    if directory is None:
        return {}
    return dict(_differing(config.to_dict(), type(config).from_pretrained(directory).to_dict()))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in sorted((one.keys() | other.keys()) - OF_NO_KV):
        mine, published = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(published, dict):
            if inner := dict(_differing(mine, published)):
                yield name, inner
        elif mine != published:
            yield name, mine
