"""vLLM: what `kv_connector_extra_config` may say to the connector."""

from dataclasses import dataclass
from typing import Any

from cachestore.config import Bytes, Seconds
from cachestore.integrations.settings import settings_from


@dataclass(frozen=True)
class ConnectorSettings:
    """`address` of the store, else the environment's, and how to use it.

    `revision` names the model's weights where neither its directory nor the hub says it; `block_tokens` a block's
    tokens, 0 for 64. `mirror` keeps a copy of the store's index in the scheduler, so that it need not ask. `timeout`
    bounds one load or save, `lookup_timeout` one question, `handoff_wait` how long a decoding engine waits for blocks
    that a prefilling one promised, `handoff_lease` how long nothing evicts what a prefilling engine handed on.
    `idle_wait` bounds how long a step that computes nothing waits for loads. `staging` is host memory for blocks on
    their way, of a worker; what has no room there is not saved. `threads` load, among whom a long load is shared out,
    and as many save. `layerwise` saves while the model computes, which excludes full CUDA graphs.
    """

    address: str = ""
    revision: str = ""
    block_tokens: int = 0
    mirror: bool = True
    timeout: Seconds = 10.0
    lookup_timeout: Seconds = 0.5
    handoff_wait: Seconds = 2.0
    handoff_lease: Seconds = 30.0
    idle_wait: Seconds = 0.005
    staging: Bytes = 256 << 20
    threads: int = 2
    layerwise: bool = False


def settings_of(config: Any) -> ConnectorSettings:
    """Those of a KVTransferConfig. ConfigError names what is unknown or wrong."""
    return settings_from(ConnectorSettings, config.kv_connector_extra_config or {}, "kv_connector_extra_config")
