"""vLLM: which spec and which keys a request has. They are those of any engine with the same model."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vllm.config import VllmConfig

from cachestore.block import BlockSpec
from cachestore.engine.layers import text_config
from cachestore.engine.revision import directory_revision
from cachestore.engine.rotary import longrope_switch
from cachestore.engine.spec import spec_of
from cachestore.errors import ConfigError, UnsupportedModel
from cachestore.integrations.keys import Image, PromptKeys
from cachestore.integrations.named import model_name
from cachestore.integrations.vllm_revision import model_revision

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
    if config.diffusion_config is not None:
        raise UnsupportedModel("a diffusion model: the KV of a prefix would depend on the tokens behind it")
    if longrope_switch(text_config(model.hf_config)):
        raise UnsupportedModel("longrope: vLLM's tables and those of other engines change at other lengths")
    return spec_of(
        model.hf_config,
        model=model_name(model.model, model.hf_config),
        revision=model_revision(config, given),
        dtype=str(model.dtype).removeprefix("torch."),
        block_tokens=block_tokens(cache.block_size, chosen),
        weights=model.quantization or "",
    )


@dataclass(eq=False)
class Adapters:
    """Which files each LoRA had when it was first used, by name and path; safe for several threads.

    `settings` is what vLLM makes of them, as `adapter_settings` says.
    """

    settings: str = ""
    _first: dict[tuple[str, str], str] = field(default_factory=dict)

    def spec(self, base: BlockSpec, adapter: Any) -> BlockSpec:
        """`base` with this LoRA; hashes its files, if they are not those that were hashed before.

        ConfigError if others lie there by now, for as long as the engine lives. Nobody tells which of them vLLM has
        loaded, also after its caches were reset, and its own cache, which knows an adapter by name and path, may have
        KV of the first ones: it would be saved as that of the others.
        """
        found = adapter_revision(adapter.lora_path)
        if self._first.setdefault((adapter.lora_name, adapter.lora_path), found) != found:
            raise ConfigError(
                f"LoRA {adapter.lora_name!r}: its files have changed since it was first used, and nothing says "
                "which of them vLLM has loaded; load it from another directory"
            )
        return replace(base, adapter=adapter.lora_name, adapter_revision=f"{found} {self.settings}".rstrip())


def adapter_revision(path: str) -> str:
    """The hash of an adapter's files. ConfigError if they are not in a local directory."""
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
