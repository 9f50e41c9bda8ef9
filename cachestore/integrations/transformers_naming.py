"""transformers: what names the KV of a model that is loaded already, and whether the name still tells the truth."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from safetensors import safe_open

from cachestore.block import BlockSpec
from cachestore.engine.layers import text_config
from cachestore.engine.revision import revision_files
from cachestore.engine.rotary import SHORT, longrope_switch
from cachestore.engine.spec import spec_of
from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.named import model_name, revision

SAMPLED = 256
"""Elements of each weight that are compared with its file."""

PLACEHOLDERS = tuple(f"{kind}_token_{end}" for kind in ("image", "video", "audio") for end in ("id", "index"))
"""Settings that name a token in whose place something else than a token's embedding is computed."""

OF_NO_KV = {"_name_or_path", "architectures", "dtype", "quantization_config", "transformers_version", "use_cache"}
"""What loading sets in a configuration, and what leaves KV alone or stands elsewhere in the spec."""


_known: WeakKeyDictionary[Any, tuple["State", str]] = WeakKeyDictionary()
"""By model how it was when its directory was read, and the revision found: the directory may be another's since."""


class State(NamedTuple):
    """What of a loaded model shows that somebody changed it."""

    weights: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    adapted: bool


def state_of(model: Any) -> State:
    """As of now: which tensors are its weights, and how often they were written to."""
    # tensors made in inference mode count no writes
    weights = tuple((id(each), 0 if each.is_inference() else each._version) for each in model.parameters())
    return State(weights, model.dtype, _adapted(model))


def check_state(model: Any, named: State) -> None:
    """ConfigError if the model is not as it was when it was `named`."""
    if state_of(model) != named:
        raise ConfigError(
            "revision: the model's weights, type or adapters were changed since it was named; make a PrefixCache with "
            "a revision that names them as they are now"
        )


def spec_of_model(model: Any, given: str, block_tokens: int) -> BlockSpec:
    """What makes KV compatible with that of `model`, whose revision is `given` or is that of its directory.

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
    changed = _changed(model.config, path) if path and Path(path).is_dir() else None
    if given:
        return revision(path, given, changed=changed)
    if model in _known:
        state, found = _known[model]
        check_state(model, state)
        return found
    if _adapted(model):
        raise UnsupportedModel("the model has an adapter loaded: give a revision that names weights and adapter")
    found = revision(path, changed=changed)
    _check_weights(model, Path(path))
    _known[model] = state_of(model), found
    return found


def _adapted(model: Any) -> bool:
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        return True
    # a model that was wrapped keeps the layers put into it
    return any(type(module).__module__.partition(".")[0] == "peft" for module in model.modules())


def _changed(config: Any, path: str) -> dict[str, Any]:
    """The settings, by name, that are not as the configuration in the directory `path` says."""
    return dict(_differing(config.to_dict(), type(config).from_pretrained(path).to_dict()))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in sorted((one.keys() | other.keys()) - OF_NO_KV):
        mine, published = one.get(name), other.get(name)
        if isinstance(mine, dict) and isinstance(published, dict):
            if inner := dict(_differing(mine, published)):
                yield name, inner
        elif mine != published:
            yield name, mine


def _check_weights(model: Any, directory: Path) -> None:
    """ConfigError if a weight differs from that of its name in the directory's files, as far as names agree."""
    weights = dict(model.named_parameters())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for path in revision_files(directory):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                held, kept = weights.get(name, weights.get(prefix + name)), file.get_slice(name)
                if held is not None and held.is_floating_point() and not _alike(held, kept):
                    raise ConfigError(
                        f"revision: {name} of the model is not what {directory} holds, since one of them was changed "
                        "or the model was not loaded from there; give a revision that names the weights"
                    )


def _alike(held: torch.Tensor, kept: Any) -> bool:
    """Whether the first elements are the same; of another shape or on no device, nothing can be said."""
    if held.is_meta or list(held.shape) != kept.get_shape() or not held.numel():
        return True
    first = kept[: -(-SAMPLED * len(held) // held.numel())] if held.ndim else kept[...]
    sample = held.detach().flatten()[:SAMPLED].cpu()
    return torch.equal(first.flatten()[:SAMPLED].to(sample.dtype), sample)
