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
from cachestore.integrations.transformers_files import compare, other_code, published
from cachestore.integrations.transformers_loaded import OF_NO_KV, State, check_state
from cachestore.integrations.transformers_tables import other_tables

PLACEHOLDERS = tuple(f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))
"""Settings that name a token in whose place something else than a token's embedding is computed."""

_known: WeakKeyDictionary[Any, tuple[State, str]] = WeakKeyDictionary()
"""By model how it was when its files were looked at, and the revision found: they may be another's since."""


def spec_of_model(model: Any, given: str, block_tokens: int, state: State) -> BlockSpec:
    """What makes KV compatible with that of `model`, whose revision is `given`, or that of its directory or commit.

    `state` is how the model is now.

    ConfigError or UnsupportedModel says what keeps it without a name, such as weights that are not in its directory.
    """
    _check_computing(model)
    config = model.config
    path = str(getattr(config, "name_or_path", ""))
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None and not isinstance(quantised, dict):
        quantised = quantised.to_dict()
    return spec_of(
        config,
        model=model_name(path, config) or str(config.model_type),
        revision=_revision(model, path, given, state),
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


def _check_computing(model: Any) -> None:
    """UnsupportedModel for one whose KV depends on the call before, as where images of that are in its positions."""
    for name, module in model.named_modules():
        if hasattr(module, "rope_deltas"):
            raise UnsupportedModel(f"{name or model.config.model_type} keeps positions of one call for the next")


def _revision(model: Any, path: str, given: str, state: State) -> str:
    directory = Path(path) if path and Path(path).is_dir() else None
    if given:
        files = directory or _commit(path, given) or next(_like(model, path), None)
        return revision(path, given, changed=_changed(model.config, files))
    if model in _known:
        named, found = _known[model]
        check_state(state, named)
        return found
    if state.modules:
        raise UnsupportedModel(
            f"{state.modules[0].name} is not the model's own, but of an adapter, of weights quantised later, or from "
            "elsewhere: give a revision that names the weights with it"
        )
    if module := other_tables(model):
        raise ConfigError(
            f"revision: the rotary tables of {module} are not those of the model's configuration, as after half() or "
            "to(dtype), which round them; load the model with dtype=..., or give a revision that names it as it is"
        )
    found = _of_hub(model, path) if directory is None else _of_directory(model, directory)
    _known[model] = state, found
    return found


def _of_directory(model: Any, directory: Path) -> str:
    found = revision(str(directory), changed=_changed(model.config, directory))
    if other := other_code(model, directory):
        raise ConfigError(
            f"revision: {other} in {directory} is not the code that the model runs, since it was replaced or "
            "comes from another model; give a revision that names code and weights"
        )
    compared = compare(model, directory)
    if compared.differs:
        raise ConfigError(
            f"revision: {compared.differs} of the model is not what {directory} holds, since one of them was changed "
            "or the model was not loaded from there; give a revision that names the weights"
        )
    if compared.untold:
        raise ConfigError(
            f"revision: {compared.untold} weights of the model have no like in {directory}, as experts that are merged "
            f"when loaded; if they are those of its files, unchanged, give revision={found.split()[0]!r}"
        )
    return found


def _of_hub(model: Any, hub_id: str) -> str:
    """By the commit in the hub's cache that has the model's weights, all of them, and its code, if only one has."""
    like = [
        commit for commit in _commits(hub_id) if not other_code(model, commit) and compare(model, commit) == ("", 0)
    ]
    # the same weights of two commits are one file in the cache; what differs may do so where no sample was taken
    alike = {tuple(sorted(path.resolve() for path in commit.glob("*.safetensors"))) for commit in like}
    commit = like[0] if len(alike) == 1 else None
    return revision(hub_id, opened=commit.name if commit else "", changed=_changed(model.config, commit))


def _like(model: Any, hub_id: str) -> Iterator[Path]:
    """The commits in the hub's cache that have weights of the model, and none that differs."""
    names = {name for name, _ in model.named_parameters()}
    for commit in _commits(hub_id):
        differs, untold = compare(model, commit)
        if not differs and untold < len(names):
            yield commit


def _commits(hub_id: str) -> list[Path]:
    """A model's commits in the hub's cache, that of the default branch first."""
    newest = _commit(hub_id, "main")
    found = sorted(_cached(hub_id).glob("snapshots/*"), key=lambda each: (each != newest, each.name))
    return [commit for commit in found if (commit / "config.json").is_file()]


def _commit(hub_id: str, named: str) -> Path | None:
    """The commit of this name, or of this branch or tag as the hub's cache knows it."""
    cached = _cached(hub_id)
    known = cached / "refs" / named
    commit = cached / "snapshots" / (known.read_text().strip() if known.is_file() else named)
    return commit if (commit / "config.json").is_file() else None


def _cached(hub_id: str) -> Path:
    return Path(constants.HF_HUB_CACHE, f"models--{hub_id.replace('/', '--')}")


def _changed(config: Any, directory: Path | None) -> dict[str, Any]:
    """The settings, by name, that are not as the configuration in `directory` says."""
    if directory is None:
        return {}
    return dict(_differing(config.to_dict(), published(config, directory)))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in sorted((one.keys() | other.keys()) - OF_NO_KV):
        mine, published = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(published, dict):
            if inner := dict(_differing(mine, published)):
                yield name, inner
        elif mine != published:
            yield name, mine
