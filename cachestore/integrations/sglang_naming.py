"""SGLang: what its pages are called in the store, so that no two engines share pages which mean different things.

SGLang's page hashes are chained SHA-256 over token ids, the request's salt and its adapter's id, and say nothing of the
model, its weights, the layout or the rank. All of that is in the spec.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang.srt.runtime_context import get_context
from sglang.version import __version__

from cachestore.block import OpaqueSpec
from cachestore.config import Seconds
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.integrations.named import model_name
from cachestore.integrations.opaque import layout_text
from cachestore.integrations.settings import settings_from
from cachestore.integrations.sglang_host import HostPages
from cachestore.integrations.sglang_revision import model_revision

WHERE = "hicache-storage-backend-extra-config"
ENGINE_KEYS = frozenset(
    {
        "backend_name",
        "module_path",
        "class_name",
        "interface_v1",
        "tp_lcm_size",
        "prefetch_threshold",
        "prefetch_timeout_base",
        "prefetch_timeout_per_ki_token",
        "hicache_storage_pass_prefix_keys",
    }
)
"""What SGLang itself reads of the same table."""
HASH_BYTES = 32
"""Of a SHA-256."""


@dataclass(frozen=True)
class HiCacheSettings:
    """What `--hicache-storage-backend-extra-config` may say to us.

    `address` of the store, else the environment's; `revision` of the weights where neither the files of the model's
    directory nor its commit say it, with adapters, and with settings of SGLang that have no name; `timeout` of one
    batch of pages, `lookup_timeout` of one question, for both of which SGLang's prefetch waits.
    """

    address: str = ""
    revision: str = ""
    timeout: Seconds = 5.0
    lookup_timeout: Seconds = 0.5


def settings_of(config: Any) -> HiCacheSettings:
    """Those of a HiCacheStorageConfig. ConfigError names what is unknown or wrong."""
    given = config.extra_config or {}
    return settings_from(HiCacheSettings, {key: given[key] for key in given if key not in ENGINE_KEYS}, WHERE)


def engine_keys(keys: Sequence[str]) -> list[bytes]:
    """SGLang's page hashes as bytes. InvalidArgument for what is no SHA-256: others may collide between prompts."""
    try:
        found = list(map(bytes.fromhex, keys))
    except ValueError:
        found = [b""]
    if found and set(map(len, found)) != {HASH_BYTES}:
        raise InvalidArgument("SGLang's page hashes must be SHA-256 in hexadecimal: others may collide between prompts")
    return found


def opaque_spec(config: Any, host: HostPages, settings: HiCacheSettings) -> OpaqueSpec:
    """All that decides what the bytes of a page mean; `config` is SGLang's HiCacheStorageConfig.

    Ranks hold parts of a page's heads, layers or tokens, and share none; those of latent attention hold it all alike,
    and share it. ConfigError for what cannot be named.
    """
    if config.should_split_heads:
        raise ConfigError(f"{WHERE}: leave tp_lcm_size out; pages are kept for one tensor-parallel size each")
    model, lora = (get_context().config_bag(name) for name in ("model", "lora"))
    if (lora.enable_lora or lora.lora_paths) and not settings.revision:
        raise ConfigError(
            f"{WHERE}: with LoRA give a `revision` that changes whenever the weights of an adapter do; SGLang names "
            "adapters by name and path only"
        )
    facts = {
        **host.facts,
        "parallel": [config.pp_rank, config.pp_size, config.attn_cp_rank, config.attn_cp_size],
    }
    return OpaqueSpec(
        engine="sglang",
        engine_version=__version__,
        model=model_name(model.model_path),
        revision=model_revision(settings.revision, host.dtype),
        dtype=host.dtype,
        layout=layout_text(facts),
        rank=0 if config.is_mla_model else config.tp_rank,
        world_size=1 if config.is_mla_model else config.tp_size,
        hash_algorithm="sha256",
    )
