"""transformers: what a loaded model shows of its weights, beside files that may be theirs, and since it was named."""

from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from cachestore.errors import ConfigError, InvalidArgument

ROWS, COLUMNS = 16, 16
"""Of each weight so many numbers are looked at, spread over all of it."""

OWN = ("torch", "transformers", "transformers_modules")
"""Where the modules of a model come from that nobody has put others into."""


class State(NamedTuple):
    """What of a loaded model shows that somebody changed it: which tensors are its weights, and samples of them."""

    weights: tuple[int, ...]
    sampled: int
    dtype: torch.dtype
    foreign: str


class Compared(NamedTuple):
    """A model's weights beside files: the first that `differs`, empty if none does, and how many names told nothing.

    Loading may rename and merge weights, of experts for instance; of those nothing is said.
    """

    differs: str
    untold: int


def state_of(model: Any) -> State:
    """As of now. InvalidArgument if it would compute other KV than the model is known for."""
    if model.training:
        raise InvalidArgument("the model is in training mode, in which it may drop out what it computes; call eval()")
    if torch.is_autocast_enabled(model.device.type):
        raise InvalidArgument("autocast computes KV in another type than the model's; load the model in that type")
    weights = list(model.parameters())
    return State(tuple(map(id, weights)), _digest(weights), model.dtype, foreign(model))


def check_state(model: Any, named: State) -> None:
    """ConfigError if the model is not as it was when it was `named`."""
    if state_of(model) != named:
        raise ConfigError(
            "revision: the model's weights, type or modules were changed since it was named; make a PrefixCache with "
            "a revision that names them as they are now"
        )


def foreign(model: Any) -> str:
    """The name of a module that is not the model's own, such as an adapter's or one quantised later; empty if none."""
    if getattr(model, "_hf_peft_config_loaded", False):
        return "adapter"
    for name, module in model.named_modules():
        origin = type(module).__module__
        if origin.partition(".")[0] not in OWN or origin.startswith("torch.ao."):
            return name or type(module).__name__
    return ""


def compare(model: Any, directory: Path) -> Compared:
    """The model's weights beside those of the same names in a directory's *.safetensors."""
    weights = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    untold = set(weights)
    for name, kept in _kept(directory):
        name = name if name in weights else prefix + name
        held = weights.get(name)
        if held is None or held.is_meta or list(held.shape) != kept.get_shape():
            continue
        if not _alike(held.detach(), kept):
            return Compared(name, len(untold))
        untold.discard(name)
    return Compared("", len(untold))


def _kept(directory: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                yield name, file.get_slice(name)


def _alike(held: Tensor, kept: Any) -> bool:
    """Whether samples are the same, as far as the model's type holds them."""
    if held.ndim < 2:
        found = kept[...].reshape(-1)
        return torch.equal(found.to(held.dtype), held.reshape(-1).cpu())
    size = held[0].numel()
    found = torch.cat([kept[row : row + 1].reshape(-1)[_spread(size, COLUMNS)] for row in _spread(len(held), ROWS)])
    return torch.equal(found.to(held.dtype), held.take(_places(held.shape, held.device)).cpu())


@lru_cache(maxsize=256)
def _places(shape: torch.Size, device: torch.device) -> Tensor:
    """Where the samples of a weight lie, counted in all its numbers."""
    count = shape.numel()
    length = shape[0] if shape else 1
    size = count // max(length, 1)
    places = [row * size + column for row in _spread(length, ROWS) for column in _spread(size, COLUMNS)]
    return torch.tensor(places, dtype=torch.int64, device=device)


def _spread(length: int, most: int) -> list[int]:
    """Up to `most` places in a length, the first and the last among them."""
    most = min(length, most)
    return [at * (length - 1) // (most - 1) for at in range(most)] if most > 1 else [0] * most


def _digest(weights: list[Any]) -> int:
    """Of samples of all weights, fetched at once from each device."""
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    with torch.no_grad():
        for weight in weights:
            if not weight.is_meta:
                by_kind[weight.device, weight.dtype].append(weight.detach().take(_places(weight.shape, weight.device)))
        digest = xxhash.xxh3_64()
        for samples in by_kind.values():
            digest.update(torch.cat(samples).cpu().view(torch.uint8).numpy().data)
    return digest.intdigest()
