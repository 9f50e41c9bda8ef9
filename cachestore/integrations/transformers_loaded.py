"""transformers: what a loaded model shows of its weights, beside files that may be theirs, and since it was named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from cachestore.errors import ConfigError

SAMPLED = 256
"""Elements of each weight that are compared with its file."""


class State(NamedTuple):
    """What of a loaded model shows that somebody changed it."""

    weights: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    adapted: bool


class Compared(NamedTuple):
    """The model's weights beside files: the first that `differs`, empty if none does, and how many names told nothing.

    Loading may rename and merge weights, of experts for instance; of those nothing is said.
    """

    differs: str
    untold: int


def state_of(model: Any) -> State:
    """As of now: which tensors are its weights, and how often they were written to."""
    # tensors made in inference mode count no writes
    weights = tuple((id(each), 0 if each.is_inference() else each._version) for each in model.parameters())
    return State(weights, model.dtype, adapted(model))


def check_state(model: Any, named: State) -> None:
    """ConfigError if the model is not as it was when it was `named`."""
    if state_of(model) != named:
        raise ConfigError(
            "revision: the model's weights, type or adapters were changed since it was named; make a PrefixCache with "
            "a revision that names them as they are now"
        )


def adapted(model: Any) -> bool:
    """Whether it computes with an adapter, or could."""
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        return True
    # a model that was wrapped keeps the layers put into it
    return any(type(module).__module__.partition(".")[0] == "peft" for module in model.modules())


def compare(model: Any, directory: Path) -> Compared:
    """The model's weights beside those of the same names in a directory's *.safetensors."""
    weights = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    untold = set(weights)
    for name, kept in _kept(directory):
        name = name if name in weights else prefix + name
        if name not in weights or not _comparable(weights[name], kept):
            continue
        if not _alike(weights[name], kept):
            return Compared(name, len(untold))
        untold.discard(name)
    return Compared("", len(untold))


def _kept(directory: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield name, file.get_slice(name)


def _comparable(held: torch.Tensor, kept: Any) -> bool:
    return not held.is_meta and list(held.shape) == kept.get_shape()


def _alike(held: torch.Tensor, kept: Any) -> bool:
    """Whether the first elements are the same, as far as the model's type holds them."""
    if not held.numel():
        return True
    first = kept[: -(-SAMPLED * len(held) // held.numel())] if held.ndim else kept[...]
    sample = held.detach().flatten()[:SAMPLED].cpu()
    return torch.equal(first.flatten()[:SAMPLED].to(sample.dtype), sample)
