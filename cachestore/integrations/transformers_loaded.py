"""transformers: what a loaded model shows of its weights and its computing, to be looked at with every call."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cachestore.engine.layers import text_config
from cachestore.engine.rotary import longrope_switch
from cachestore.errors import ConfigError, InvalidArgument, UnsupportedModel
from cachestore.integrations.transformers_modules import Stranger, strangers
from cachestore.integrations.transformers_samples import digest

OF_NO_KV = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "pad_token_id", "problem_type", "quantization_config", "return_dict",
    "transformers_version", "use_cache",
}  # fmt: skip
"""What loading sets in a configuration, and what leaves KV alone or stands elsewhere in the spec."""


class State(NamedTuple):
    """What of a loaded model shows that somebody changed it: by what an error calls it."""

    weights: tuple[tuple[int, ...], int]
    """Which tensors they are, and samples of them."""
    buffers: int
    type: torch.dtype
    modules: tuple[Stranger, ...]
    """With hooks and functions: those that are not the model's own."""
    settings: str


def state_of(model: Any) -> State:
    """As of now; UnsupportedModel if its weights are not there to be looked at."""
    modules = dict(model.named_modules())
    # torch's own walk over parameters takes a fifth of the time of all this
    tensors = (each for module in modules.values() for each in module._parameters.values())
    weights = {id(each): each for each in tensors if each is not None}
    if any(weight.is_meta for weight in weights.values()):
        raise UnsupportedModel(
            f"{_offloaded(model)} is offloaded to disk or to the CPU's memory, where nothing shows whether it changes; "
            "load the model with a device_map that leaves all weights where they are used"
        )
    return State(
        (tuple(weights), digest(weights.values())),
        digest(_buffers(model.config, modules)),
        model.dtype,
        tuple(strangers(model, modules)),
        _settings(model.config),
    )


def check_mode(model: Any) -> None:
    """InvalidArgument if it would now compute other KV than the model is known for."""
    if model.training:
        raise InvalidArgument("the model is in training mode, in which it may drop out what it computes; call eval()")
    if torch.is_autocast_enabled(model.device.type):
        raise InvalidArgument("autocast computes KV in another type than the model's; load the model in that type")


def check_state(state: State, named: State) -> None:
    """ConfigError if the model is not as it was when it was `named`."""
    if state != named:
        changed = [name for name, now, then in zip(State._fields, state, named, strict=True) if now != then]
        raise ConfigError(
            f"revision: the model's {' and '.join(changed)} changed since it was named; make a PrefixCache with a "
            "revision that names it as it is now"
        )


def _offloaded(model: nn.Module) -> str:
    return next(name for name, weight in model.named_parameters() if weight.is_meta)


def _buffers(config: Any, modules: Mapping[str, nn.Module]) -> Iterator[Tensor]:
    """Those that stay as they are: longrope's tables in use are those of the call before."""
    changing = longrope_switch(text_config(config))
    for module in modules.values():
        for name, buffer in module._buffers.items():
            in_use = name.endswith("inv_freq") and not name.endswith("original_inv_freq")
            if buffer is not None and not buffer.is_meta and not (changing and in_use):
                yield buffer


def _settings(config: Any) -> str:
    """Those that may change KV, as JSON."""
    return json.dumps(_kept(config), default=lambda value: _kept(value) if hasattr(value, "__dict__") else str(value))


def _kept(config: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(config).items() if name[0] != "_" and name not in OF_NO_KV}
