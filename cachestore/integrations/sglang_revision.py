"""SGLang: the revision of a model, which says beside its weights what SGLang was told to compute them by."""

import json
import os
from collections.abc import Iterator
from typing import Any

from sglang.srt.runtime_context import get_context
from sglang.srt.utils.hf_transformers.mistral_utils import is_mistral_model

from cachestore.errors import ConfigError
from cachestore.integrations.named import model_name, revision

LOAD_FORMATS = frozenset({"auto", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "layered"})
"""Those that read the safetensors of the model's directory, or of its commit, and nothing else."""
LOADING = frozenset(
    {"enable_multithread_load", "num_threads", "enable_gds", "distributed", "concurrency", "memory_limit"}
)
"""Keys of `--model-loader-extra-config` that say how files are read, not which."""
NAMED = (
    "weight_version",
    "is_embedding",
    "json_model_override_args",
    "quantization",
    "quantization_param_path",
    "modelopt_quant",
    "kv_cache_dtype",
    "enable_tf32_matmul",
    "enable_encoder_swa_bounded_replay",
    "enable_decoder_swa_bounded_replay",
    "prefill_kv_cache_dequant_dtype",
    "dsa_prefill_backend",
    "dsa_decode_backend",
    "dsv4_prefill_backend",
    "dsv4_attn_backend",
    "enable_deepseek_v4_fp4_indexer",
    "enable_precise_embedding_interpolation",
    "enable_quant_communications",
    "enable_w4a4_mxfp4_megamoe",
    "flashinfer_mxfp4_moe_precision",
    "deepep_dispatcher_output_dtype",
    "flashinfer_a2a_dispatch_type",
    "ep_dispatch_algorithm",
    "enforce_shared_experts_fusion",
    "kt_method",
    "kt_num_gpu_experts",
    "kt_max_deferred_experts_per_token",
    "rl_on_policy_target",
    "enable_hisparse",
    "hisparse_config",
    "mm_process_config",
    "image_processor_backend",
    "disable_fast_image_processor",
    "enable_prefill_cp",
    "cp_strategy",
    "enable_dsa_cache_layer_split",
    "enable_kv_cache_sharding",
)
"""Settings that change KV by more than rounding, or who holds which of it: engines share where they are equal."""
NAMED_OF_DRAFTS = (
    "speculative_algorithm",
    "speculative_draft_model_quantization",
    "speculative_draft_kv_cache_dtype",
    "speculative_draft_window_size",
    "speculative_draft_sink_size",
    "speculative_enable_w4a4_mxfp4_megamoe",
    "enable_multi_layer_eagle",
    "context_length",
)
"""The same of a model that drafts, whose layers may lie in the same pages."""
UNNAMED = {
    "quantization_param_path": "the scales of quantised KV come from {}",
    "modelopt_checkpoint_restore_path": "the weights come from {}",
    "rl_quant_profile": "the weights are quantised by {}",
    "custom_weight_loader": "weights are to be replaced by {}",
    "checkpoint_engine_wait_weights_before_ready": "the weights come from another process",
    "decrypted_config_file": "the configuration comes from {}",
    "decrypted_draft_config_file": "the configuration of the draft comes from {}",
    "kt_weight_path": "weights of experts come from {}",
    "uno_lora_path": "an adapter for drafts comes from {}",
    "language_only": "other servers encode what is no text",
    "forward_hooks": "hooks may change what is computed",
    "debug_tensor_dump_input_file": "inputs come from {}",
}
"""Settings by which KV depends on what has no name here, and why."""
ENVIRONMENT = (
    "SGLANG_CPU_QUANTIZATION",
    "SGLANG_ENABLE_DP_GATHER_FP8",
    "SGLANG_FLASHINFER_CUTEDSL_NVFP4_W4A16",
    "SGLANG_FLASHINFER_NVFP4_PER_TOKEN_ACTIVATION",
    "SGLANG_FORCE_MXFP8_BLOCK_CONVERT_DENSE",
    "SGLANG_FP4_IGNORED_LAYERS",
    "SGLANG_FP8_IGNORED_LAYERS",
    "SGLANG_HUMMING_INPUT_QUANT_CONFIG",
    "SGLANG_HUMMING_ONLINE_QUANT_CONFIG",
    "SGLANG_IMAGE_MAX_PIXELS",
    "SGLANG_INT4_WEIGHT",
    "SGLANG_NVFP4_CKPT_FP8_GEMM_IN_ATTN",
    "SGLANG_QUANT_ALLOW_DOWNCASTING",
    "SGLANG_RESIZE_RESAMPLE",
    "SGLANG_SIMULATE_ROUND_ROBIN_EXPERTS",
    "SGLANG_SIMULATE_UNIFORM_EXPERTS",
)
"""Variables that change KV by more than rounding."""
CODE = ("SGLANG_EXTERNAL_MODEL_PACKAGE", "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE")
"""Variables by which SGLang takes code of models from elsewhere."""
REPLACING = frozenset({"model_runner.update_model_fields", "scheduler.weight_version"})
"""By what SGLang notes that it serves other weights than before: from a disk, or with another `weight_version`."""
TYPES = {"half": "float16", "float": "float32"}
"""Other names of `--dtype`."""


def model_revision(given: str, kept: str) -> str:
    """The revision of the engine's model: `given`, or what its files or its commit say; `kept` is the type of its KV.

    Settings of SGLang that change KV are added. ConfigError, where none is given, for weights and settings that have no
    name: two engines would take each other's KV for their own.
    """
    for unnamed in () if given else _unnamed():
        raise ConfigError(
            f"revision: {unnamed}, so nothing says which KV is computed; give a name that changes whenever that does"
        )
    found = {**{name: _said(name) for name in NAMED}, **_environment(ENVIRONMENT)}
    found["dtype"] = _computed_by(kept)
    found["draft"] = _draft(given)
    return revision(
        _said("model_path"), given, _said("revision"), {name: value for name, value in found.items() if value}
    )


def replacements() -> int:
    """How often SGLang has replaced its weights since it started, as far as it notes it."""
    return sum(by in REPLACING for by, _ in get_context().overrides_log())


def _said(name: str) -> Any:
    """What SGLang's setting of this name is, once SGLang has resolved it."""
    return get_context().config_leaf(name)


def _environment(names: tuple[str, ...]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _computed_by(kept: str) -> str:
    """`--dtype`, where the type of KV does not follow it."""
    if _said("kv_cache_dtype") == "auto" and kept in {"float16", "bfloat16", "float32"}:
        return ""
    chosen = str(_said("dtype"))
    return TYPES.get(chosen, chosen)


def _draft(given: str) -> Any:
    """What names the model that drafts, if there is one."""
    path = _said("speculative_draft_model_path")
    if not path:
        return None
    found = {name: _said(name) for name in NAMED_OF_DRAFTS}
    if path != _said("model_path"):
        found["model"] = model_name(path)
        found["revision"] = revision(path, given, _said("speculative_draft_model_revision"))
    return found


def _unnamed() -> Iterator[str]:
    """What of the settings neither the model's files nor its commit say, and we cannot."""
    for name in ("load_format", "speculative_draft_load_format"):
        if (loading := _said(name) or "auto") not in LOAD_FORMATS:
            yield f"--{_option(name)} {loading} takes weights from elsewhere than the model's safetensors"
    for name, why in UNNAMED.items():
        if value := _said(name):
            yield f"--{_option(name)}: {why.format(value)}"
    if _said("weight_cache_mode") != "off":
        yield f"--weight-cache-mode {_said('weight_cache_mode')} takes weights from a process that may have others"
    if unknown := json.loads(_said("model_loader_extra_config") or "{}").keys() - LOADING:
        yield f"--model-loader-extra-config has {', '.join(sorted(unknown))}"
    parser = _said("model_config_parser")
    if parser != "hf" and (parser != "auto" or is_mistral_model(_said("model_path"))):
        yield "params.json or a parser of its own configures the model, and not config.json"
    for name, package in _environment(CODE).items():
        yield f"{name}: the model's code comes from {package}"


def _option(name: str) -> str:
    return name.replace("_", "-")
