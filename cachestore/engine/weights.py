"""Loads a model's weights, for every engine alike."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from cachestore.engine.devices import check_device
from cachestore.engine.model import first_line
from cachestore.engine.settings import EngineSettings
from cachestore.errors import ConfigError, UnsupportedModel


def prepare(settings: EngineSettings) -> None:
    """Sets the threads to compute with. ConfigError if this machine has no such device."""
    check_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)


def load(settings: EngineSettings, config: Any) -> Any:
    """The model of this configuration on its device. ConfigError without weights, UnsupportedModel for another kind."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            settings.model,
            config=config,
            revision=settings.revision or None,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except OSError as error:
        raise ConfigError(f"engine.model: {settings.model!r} has no *.safetensors weights that can be read") from error
    except ValueError as error:
        raise UnsupportedModel(f"{settings.model!r} is no causal language model: {first_line(error)}") from error
    return model.eval().requires_grad_(False).to(settings.device)


def end_tokens(model: Any) -> frozenset[int]:
    """The tokens that end a text of this model."""
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
