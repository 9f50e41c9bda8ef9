"""vLLM: its OffloadingConnector, which tells our tier which KV the model computes.

A tier sees bytes, vLLM's hashes and the name of the model, but not by which weights and settings they were computed.

    --kv-transfer-config '{"kv_connector": "CacheStoreOffloadingConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "cachestore.integrations.vllm_offloading", "kv_connector_extra_config": {...}}'
"""

import copy
from typing import Any

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector

from cachestore.errors import ConfigError
from cachestore.integrations.named import model_name, revision
from cachestore.integrations.vllm_revision import model_revision
from cachestore.integrations.vllm_tier import CacheStoreTier


class CacheStoreOffloadingConnector(OffloadingConnector):
    """Each `secondary_tiers` entry of ours gets the whole revision; everything else is vLLM's."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: Any) -> None:
        # the workers' half has no tiers
        config = told(vllm_config) if role is KVConnectorRole.SCHEDULER else vllm_config
        super().__init__(config, role, kv_cache_config)


def told(config: VllmConfig) -> VllmConfig:
    """`config`, in which our tiers are told the revision. ConfigError says what has none."""
    changed = copy.copy(config)
    changed.kv_transfer_config = transfer = copy.copy(config.kv_transfer_config)
    extra = transfer.kv_connector_extra_config
    tiers = [
        {**tier, "revision": tier_revision(config, str(tier.get("revision", "")))} if _ours(tier) else tier
        for tier in extra.get("secondary_tiers", [])
    ]
    transfer.kv_connector_extra_config = {**extra, "secondary_tiers": tiers}
    return changed


def tier_revision(config: VllmConfig, given: str) -> str:
    """What decides the numbers in vLLM's pages, as far as no layout says it. ConfigError says what has no name."""
    model, cache, draft = config.model_config, config.cache_config, _draft(config, given)
    if config.lora_config is not None and not given:
        raise ConfigError(
            "revision: with LoRA give a name that changes whenever the weights of an adapter do; vLLM's hashes say its "
            "name and path only"
        )
    more = {
        "quantization": model.quantization,
        # of quantised KV the tier is told that type alone
        "dtype": "" if cache.cache_dtype == "auto" else str(model.dtype),
        "kv_cache_dtype_skip_layers": cache.kv_cache_dtype_skip_layers,
        "mamba": [str(each) for each in (cache.mamba_cache_dtype, cache.mamba_ssm_cache_dtype) if each != "auto"],
        "draft": draft,
    }
    return model_revision(config, given, more)


def _draft(config: VllmConfig, given: str) -> list[str]:
    """The model that drafts tokens, whose layers may lie in the same pages."""
    speculative = config.speculative_config
    draft = speculative and speculative.draft_model_config
    if not draft:
        return []
    return [str(speculative.method), model_name(draft.model), revision(draft.model, given, draft.revision)]


def _ours(tier: Any) -> bool:
    return isinstance(tier, dict) and tier.get("type") == CacheStoreTier.__name__
