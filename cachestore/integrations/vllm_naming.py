"""vLLM: which spec and which keys a request has. They are those of any engine with the same model."""

import json
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig

from cachestore.block import BlockSpec
from cachestore.engine.layers import text_config
from cachestore.engine.rotary import longrope_switch
from cachestore.engine.spec import spec_of
from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.keys import Image, PromptKeys
from cachestore.integrations.named import model_name, revision

BLOCK_TOKENS = 64


def block_tokens(page_tokens: int, chosen: int) -> int:
    """Tokens of a block: what was chosen, else 64, or vLLM's page where that is no part of 64."""
    size = chosen or (BLOCK_TOKENS if BLOCK_TOKENS % page_tokens == 0 else page_tokens)
    if size % page_tokens:
        raise ConfigError(f"block_tokens = {size} must be a multiple of vLLM's --block-size {page_tokens}")
    return size


def base_spec(config: VllmConfig, chosen: int, given: str) -> BlockSpec:
    """The spec of the engine's model without adapters. ConfigError or UnsupportedModel says what cannot be shared."""
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    shards = ("pipeline_parallel_size", "prefill_context_parallel_size", "decode_context_parallel_size")
    for name in shards:
        if getattr(parallel, name) != 1:
            raise ConfigError(
                f"--{name.replace('_', '-')} must be 1 with this connector; use the CacheStoreTier instead"
            )
    if cache.cache_dtype != "auto":
        raise ConfigError(
            f"--kv-cache-dtype {cache.cache_dtype}: its scales are no part of a block; use auto, or the CacheStoreTier"
        )
    if longrope_switch(text_config(model.hf_config)):
        raise UnsupportedModel("longrope: vLLM's tables and those of other engines change at other lengths")
    return spec_of(
        model.hf_config,
        model=model_name(model.model, model.hf_config),
        revision=revision(model.model, given, model.revision),
        dtype=str(model.dtype).removeprefix("torch."),
        block_tokens=block_tokens(cache.block_size, chosen),
        weights=model.quantization or "",
    )


def adapter_revision(path: str) -> str:
    """The hash of an adapter's files. ConfigError if they are not in a local directory."""
    from cachestore.engine.revision import directory_revision

    if not Path(path).is_dir():
        raise ConfigError(f"LoRA {path!r}: load it from a local directory, so that its files say which it is")
    settings = Path(path) / "adapter_config.json"
    text = json.dumps(json.loads(settings.read_text()), sort_keys=True) if settings.is_file() else ""
    return f"{directory_revision(Path(path))} {text}"


def prompt_keys(spec: BlockSpec, request: Any) -> PromptKeys:
    """The keys of a request of vLLM's."""
    images = [
        Image(feature.mm_hash or feature.identifier, feature.mm_position.offset, feature.mm_position.length)
        for feature in request.mm_features
    ]
    return PromptKeys(spec, images, request.cache_salt or "")
