"""transformers: a loaded model beside files that may be its own."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cachestore.errors import ConfigError
from cachestore.integrations.transformers_samples import sampled, wrapped

COPIED = re.compile(r"[0-9a-f]{16}|[0-9a-f]{40}")
"""What the folder is called to which transformers copies a model's code: by its content, or its commit."""


class Compared(NamedTuple):
    """A model's weights beside files: the first that `differs`, empty if none does, and how many names told nothing.

    Loading may rename and merge weights, of experts for instance; of those nothing is said.
    """

    differs: str
    untold: int


def compare(model: Any, directory: Path) -> Compared:
    """The model's weights beside those of the same names in a directory's *.safetensors.

    ConfigError names a file that cannot be read.
    """
    weights = {name: each for name, each in model.named_parameters() if each.is_floating_point()}
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    untold = set(weights)
    for name, kept in _kept(directory):
        name = name if name in weights else prefix + name
        held = weights.get(name)
        if held is None or wrapped(held) or held.shape != kept.shape:
            continue
        if not _alike(held.detach(), kept):
            return Compared(name, len(untold))
        untold.discard(name)
    return Compared("", len(untold))


def _kept(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of all files, by name, each of which is read only where it is looked at."""
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    yield name, file.get_slice(name)[...]
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} cannot be read: {error}; put its own there, or give a revision") from error


def _alike(held: Tensor, kept: Tensor) -> bool:
    """Whether samples are the same, as far as the model's type holds them."""
    ours = sampled(held).cpu().view(held.dtype)
    theirs = sampled(kept).view(kept.dtype).to(held.dtype)
    return torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def other_code(model: Any, directory: Path) -> str:
    """The first file of the code that the model and its configuration were made of, and that the directory has not.

    Empty if it has all, or if they are transformers' own. What runs is a copy that is kept by content or commit.
    """
    kinds = {type(model.config), *map(type, model.modules())}
    for name in sorted({kind.__module__ for kind in kinds if kind.__module__.startswith("transformers_modules.")}):
        folder = _copied(name)
        if folder is None:
            return name
        for path in sorted(folder.rglob("*.py")):
            theirs = directory / path.relative_to(folder)
            ours = path.read_bytes()
            # transformers makes packages of folders
            if ours and not (theirs.is_file() and theirs.read_bytes() == ours):
                return theirs.name
    return ""


def _copied(name: str) -> Path | None:
    """The folder that stands for the model's, of the code of this module."""
    parts = name.split(".")
    file = getattr(sys.modules.get(name), "__file__", None)
    depth = next((depth for depth, part in enumerate(reversed(parts)) if COPIED.fullmatch(part)), 0)
    return Path(file).parents[depth - 1] if file and depth else None


def published(config: Any, directory: Path) -> dict[str, Any]:
    """The settings of `config.json` in the directory, as loading completes them; ConfigError if it cannot be read."""
    try:
        found: dict[str, Any] = type(config).from_pretrained(directory).to_dict()
        return found
    except (OSError, ValueError) as error:
        raise ConfigError(f"{directory / 'config.json'} cannot be read: {error}; put its own there") from error
