"""LMCache: what its configuration may say to us, and which of its own settings are refused."""

from dataclasses import dataclass
from typing import Any

from lmcache.v1.token_database import ChunkedTokenDatabase

from cachestore.config import Seconds, Table
from cachestore.errors import ConfigError
from cachestore.integrations.settings import settings_from

HASHES = {"sha256": "sha256", "sha256_cbor": "sha256_cbor", "sha256_cbor_64bit": "sha256_cbor"}
"""Values of `pre_caching_hash_algorithm` that do not collide between prompts, and what each is."""

_LOADING = ("module_path", "class_name")


@dataclass(frozen=True)
class LMCacheSettings:
    """`address` of the store, else the environment's, and how to use it.

    `revision` names the model's weights and every setting that its engine computes KV by: LMCache sees neither.
    `timeout` bounds one load or save, `lookup_timeout` one question. `threads` load, and as many save.
    """

    address: str = ""
    revision: str = ""
    timeout: Seconds = 5.0
    lookup_timeout: Seconds = 0.5
    threads: int = 2


def settings_of(config: Any, plugin: str) -> LMCacheSettings:
    """Those of the remote storage plug-in named so, from `extra_config`. ConfigError names what is unknown or wrong."""
    prefix = f"remote_storage_plugin.{plugin}."
    own = {name.removeprefix(prefix): value for name, value in config.extra_config.items() if name.startswith(prefix)}
    # with a dot it is of another plug-in, whose name begins alike
    given = {name: value for name, value in own.items() if name not in _LOADING and "." not in name}
    return named_settings(given, prefix.rstrip("."))


def named_settings(given: Table, where: str) -> LMCacheSettings:
    """`given` as settings; `where` is what they stand under. ConfigError without a `revision`.

    LMCache tells the name of the engine's model, and of its weights and of what the engine computes by nothing.
    """
    settings = settings_from(LMCacheSettings, given, where)
    if not settings.revision:
        raise ConfigError(
            f"{where}.revision: LMCache does not say which weights the model has, nor by which settings its engine "
            "computes; give a name that changes whenever one of them does, such as the hub commit and the engine's "
            "command"
        )
    return settings


def hash_algorithm(config: Any) -> str:
    """How an LMCacheEngineConfig hashes tokens. ConfigError unless it is by a cryptographic hash."""
    name = str(config.pre_caching_hash_algorithm)
    if name not in HASHES:
        raise ConfigError(
            f"pre_caching_hash_algorithm: {name} can collide between prompts, and builtin differs between processes; "
            "set it to sha256_cbor"
        )
    # LMCache says no more than a warning when it cannot have the hash that was asked for
    database = ChunkedTokenDatabase.__new__(ChunkedTokenDatabase)
    if database._get_vllm_hash_func(name) is hash:
        raise ConfigError(
            f"pre_caching_hash_algorithm: LMCache has {name} from vLLM, which cannot be imported here, and would hash "
            "with builtin instead; install vLLM, or use LMCache's server with the CacheStoreL2Adapter"
        )
    return HASHES[name]


def check_chunks(config: Any) -> None:
    """ConfigError for settings under which a chunk's key does not say how many bytes it has, or of what."""
    if config.remote_serde not in (None, "naive"):
        raise ConfigError(f"remote_serde: {config.remote_serde} changes sizes; set it to naive, the store has codecs")
    for name in ("use_layerwise", "save_unfull_chunk", "enable_blending"):
        if getattr(config, name):
            raise ConfigError(f"{name}: set it to false, the keys of its chunks do not say what is in them")
