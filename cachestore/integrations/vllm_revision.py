"""vLLM: the revision of a model, which says beside its weights what vLLM was told to compute them by."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm import envs
from vllm.config import VllmConfig

from cachestore.errors import ConfigError
from cachestore.integrations.named import revision

LOAD_FORMATS = frozenset({"auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral"})
"""Those that read the safetensors of the model's directory, or of its commit, and nothing else."""


def model_revision(config: VllmConfig, given: str, more: Mapping[str, Any] | None = None) -> str:
    """The revision of the engine's model: `given`, or what its files or its commit say.

    Settings of vLLM that change KV are added, and those of `more`. ConfigError, where none is given, for weights and
    settings that have no name: two engines would take each other's KV for their own.
    """
    model = config.model_config
    for unnamed in () if given else _unnamed(config):
        raise ConfigError(
            f"revision: {unnamed}, so nothing says which KV is computed; give a name that changes whenever that does"
        )
    found = {**_settings(config), **(more or {})}
    return revision(model.model, given, model.revision, {name: value for name, value in found.items() if value})


def _settings(config: VllmConfig) -> dict[str, Any]:
    """What changes KV, and stands neither in the model's files nor in the spec of its blocks."""
    model, images = config.model_config, config.model_config.multimodal_config
    found: dict[str, Any] = {
        "hf_overrides": model.hf_overrides if _plain(model.hf_overrides) else None,
        "model_class_overrides": model.model_class_overrides,
        "code_revision": model.code_revision,
        "quantization_config": model.quantization_config and repr(model.quantization_config),
        "additional_config": config.additional_config and _told(config.additional_config),
        "moe_routing_simulation": envs.VLLM_MOE_ROUTING_SIMULATION_STRATEGY,
    }
    if images is not None:
        found["mm_processor_kwargs"] = images.mm_processor_kwargs
        found["mm_encoder_attn_dtype"] = images.mm_encoder_attn_dtype
        found["video_pruning"] = images.video_pruning_rate and [images.video_pruning_method, images.video_pruning_rate]
    return found


def _unnamed(config: VllmConfig) -> Iterator[str]:
    """What of the settings neither the model's files nor its commit say, and we cannot."""
    model, loading = config.model_config, config.load_config.load_format
    if not _plain(model.hf_overrides):
        yield "--hf-overrides is a function, or holds one"
    if model.hf_config_path and model.hf_config_path != model.model:
        yield f"--hf-config-path {model.hf_config_path} has the configuration of another model"
    if model.model_weights and model.model_weights != model.model:
        yield f"the weights come from {model.model_weights}"
    if loading not in LOAD_FORMATS:
        yield f"--load-format {loading} takes weights from elsewhere than the model's safetensors"
    if _is_mistrals(model):
        yield "params.json configures the model, and not config.json"


def _is_mistrals(model: Any) -> bool:
    """Whether vLLM reads a directory in Mistral's format, in which it looks for its configuration first."""
    directory = Path(model.model)
    if model.config_format == "auto":
        return (directory / "params.json").is_file() and any(directory.glob("consolidated*.safetensors"))
    return bool(model.config_format == "mistral") and directory.is_dir()


def _plain(overrides: Any) -> bool:
    """Whether they are words and numbers, which are alike in every process."""
    try:
        json.dumps(overrides)
    except TypeError:
        return False
    return True


def _told(additional: Any) -> Any:
    """A platform's settings, or the hash that they give of themselves."""
    return additional if isinstance(additional, dict) else additional.compute_hash()
