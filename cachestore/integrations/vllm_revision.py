"""vLLM: the revision of a model, which says beside its weights what vLLM was told to compute them by."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vllm.config import AttentionConfig, LoadConfig, LoRAConfig, VllmConfig

from cachestore.errors import ConfigError
from cachestore.integrations.named import revision

LOAD_FORMATS = frozenset({"auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral"})
"""Those that read the safetensors of the model's directory, or of its commit, and nothing else."""

ATTENTION = ("use_prefill_query_quantization", "indexer_kv_dtype", "hisparse_config", "use_non_causal")
"""Settings of attention that change KV by more than rounding."""

ADAPTERS = ("target_modules", "enable_tower_connector_lora", "enable_moe_shared_loras")
"""Those of LoRA, besides its type."""

VARIABLES = (
    "VLLM_B12X_MOE_FP4_FORCE_A16",
    "VLLM_CPU_INT4_W4A8",
    "VLLM_DEEPEPLL_NVFP4_DISPATCH",
    "VLLM_DEEPEP_V2_ALLOW_MULTIPLE_REDUCTION",
    "VLLM_FLASHINFER_MOE_A2A_LOW_PRECISION_COMBINE",
    "VLLM_FLOAT32_MATMUL_PRECISION",
    "VLLM_HUMMING_INPUT_QUANT_CONFIG",
    "VLLM_HUMMING_ONLINE_QUANT_CONFIG",
    "VLLM_HUMMING_USE_F16_ACCUM",
    "VLLM_KIMI_K3_AUX_ATTN_RES_STREAM",
    "VLLM_MARLIN_INPUT_DTYPE",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY",
    "VLLM_ROCM_FP8_MFMA_PAGE_ATTN",
    "VLLM_ROCM_MUSE_MOE_ONLINE_QUANT",
    "VLLM_ROCM_MUSE_MOE_REDUCE_DTYPE",
    "VLLM_ROCM_QUICK_REDUCE_CAST_BF16_TO_FP16",
    "VLLM_ROCM_QUICK_REDUCE_QUANTIZATION",
    "VLLM_ROCM_USE_AITER_FP4BMM",
    "VLLM_ROCM_USE_AITER_FP8BMM",
    "VLLM_ROCM_USE_AITER_MOE_A4W4_DSV4",
    "VLLM_USE_DEEP_GEMM_E8M0",
    "VLLM_XPU_INC_WNA16_BACKEND",
)
"""Variables of the environment by which vLLM quantises, rounds to fewer bits, or routes."""


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


def adapter_settings(config: VllmConfig) -> str:
    """What vLLM was told to make of an adapter's files, beside what they say; empty where it takes them as they are."""
    lora = config.lora_config
    if lora is None:
        return ""
    told = _told_other(lora, LoRAConfig(), ADAPTERS)
    if lora.lora_dtype not in ("auto", config.model_config.dtype):
        told["dtype"] = str(lora.lora_dtype)
    return json.dumps(told, sort_keys=True) if told else ""


def _settings(config: VllmConfig) -> dict[str, Any]:
    """What changes KV, and stands neither in the model's files nor in the spec of its blocks."""
    model, images = config.model_config, config.model_config.multimodal_config
    found: dict[str, Any] = {
        "hf_overrides": model.hf_overrides if _plain(model.hf_overrides) else None,
        "model_class_overrides": model.model_class_overrides,
        "code_revision": model.code_revision,
        "quantization_config": model.quantization_config and repr(model.quantization_config),
        "additional_config": config.additional_config and _told(config.additional_config),
        "loading": _told_other(config.load_config, LoadConfig(), ("ignore_patterns",)),
        "attention": _told_other(config.attention_config, AttentionConfig(), ATTENTION),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
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
    if model.multimodal_config is not None and model.multimodal_config.mm_encoder_fp8_scale_path:
        yield f"--mm-encoder-fp8-scale-path {model.multimodal_config.mm_encoder_fp8_scale_path} has scales of its own"
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


def _told_other(settings: Any, plain: Any, names: Iterable[str]) -> dict[str, str]:
    """Those of these settings that are not as by default."""
    found = {name: getattr(settings, name) for name in names}
    return {name: str(value) for name, value in found.items() if value != getattr(plain, name)}


def _told(additional: Any) -> Any:
    """A platform's settings, or the hash that they give of themselves."""
    return additional if isinstance(additional, dict) else additional.compute_hash()
