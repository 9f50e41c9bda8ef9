"""vLLM: whether its pages are what we take them for, by version, layout name and attention backend, and by proof.

Only what was tried is accepted: two layouts can have the same shape, and wrong KV gives no error.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import vllm
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.kv_cache_interface import FullAttentionSpec

from cachestore.block import BlockSpec
from cachestore.errors import ConfigError
from cachestore.integrations.pages import EnginePages, prove

VERSIONS = ("0.33.0",)
LAYOUTS = {
    "LBHNC": (0, 1, 2, 3),
    "LBNHC": (0, 2, 1, 3),
    "LHBNC": (1, 0, 2, 3),
    "BLHNC": (0, 1, 2, 3),
    "BLNHC": (0, 2, 1, 3),
    "BHLNC": (0, 1, 2, 3),
}
"""By name, the axes of a layer's `[pages, kv_heads, page_tokens, content]` from the outermost in memory on."""
BACKENDS = ("FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION")
"""Those that keep a head's K and V side by side as plain numbers. Others pack them for their kernels."""
NULL_PAGE = 0
"""vLLM gives this page to no request."""


def check_version() -> None:
    """ConfigError for a vLLM that this was not tried with."""
    if vllm.__version__.split("+")[0] not in VERSIONS:
        raise ConfigError(
            f"vLLM {vllm.__version__}: its page layout is not known here; use {', '.join(VERSIONS)} or the "
            "CacheStoreTier, which takes pages as bytes"
        )


def layer_names(kv_cache_config: Any) -> list[str]:
    """The layers that have a cache of their own, in the order of the model.

    ConfigError for several groups, and for one whose pages vLLM gives back while a request goes on: behind a window
    there is no KV to be put.
    """
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        raise ConfigError(
            f"vLLM keeps the layers of this model in {len(groups)} groups: start it with "
            "--disable-hybrid-kv-cache-manager, or use the CacheStoreTier"
        )
    kind = groups[0].kv_cache_spec
    if not isinstance(kind, FullAttentionSpec):
        raise ConfigError(
            f"vLLM keeps the layers of this model as {type(kind).__name__}, of which not every token has KV; the "
            "connector takes full attention alone: use the CacheStoreTier"
        )
    return sorted(groups[0].layer_names, key=extract_layer_index)


def engine_pages(
    spec: BlockSpec, config: VllmConfig, kv_cache_config: Any, caches: Mapping[str, Tensor]
) -> EnginePages:
    """vLLM's pages, known and proven. ConfigError or Mismatch names what is not as it should be."""
    name = config.cache_config.kv_cache_layout
    if name not in LAYOUTS:
        raise ConfigError(f"vLLM's KV cache layout {name!r} is not known here; set VLLM_KV_CACHE_LAYOUT to LBNHC")
    names = layer_names(kv_cache_config)
    if len(names) > len(spec.slots):
        raise ConfigError(
            f"vLLM keeps KV of {len(names)} layers, and the model has {len(spec.slots)}: those of a model that drafts "
            "are no part of a block; choose another --speculative-config, such as ngram, or use the CacheStoreTier"
        )
    pages = EnginePages(spec, [caches[each] for each in names], config.cache_config.block_size)
    layers = config.compilation_config.static_forward_context
    for slot, each in enumerate(names):
        cache, layer = pages.caches[slot], layers.get(each)
        _check_strides(each, cache, name)
        if cache.shape[0] != kv_cache_config.num_blocks:
            raise ConfigError(f"{each}: {cache.shape[0]} pages, but vLLM speaks of {kv_cache_config.num_blocks}")
        backend = "unknown" if layer is None else layer.get_attn_backend().get_name()
        if backend not in BACKENDS:
            raise ConfigError(
                f"{each}: attention backend {backend} may pack its pages in a way of its own; choose "
                f"--attention-backend {' or '.join(BACKENDS)}, or use the CacheStoreTier"
            )
        prove(pages, slot, NULL_PAGE, _writes(layer, cache, pages.page_tokens))
    return pages


def _check_strides(layer: str, cache: Tensor, name: str) -> None:
    """ConfigError if the axes do not follow each other in memory as the layout's name says."""
    axes = [axis for axis in LAYOUTS[name] if cache.shape[axis] > 1]
    if any(cache.stride(outer) < cache.stride(inner) for outer, inner in pairwise(axes)):
        raise ConfigError(f"{layer}: strides {cache.stride()} do not fit vLLM's KV cache layout {name}")


def _writes(layer: Any, cache: Tensor, page_tokens: int) -> Callable[[int, int, Tensor, Tensor], None]:
    """How this layer's backend writes K and V of new tokens."""

    def write(slot: int, page: int, key: Tensor, value: Tensor) -> None:
        places = torch.arange(page * page_tokens, (page + 1) * page_tokens, device=cache.device)
        layer.impl.do_kv_cache_update(layer, key, value, cache, places)

    return write
