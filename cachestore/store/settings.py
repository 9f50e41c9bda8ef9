"""The `[store]` section."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError


@dataclass(frozen=True)
class StoreSettings:
    """How blocks move between the tiers of one node, and what each namespace may take.

    `write` says when a block reaches the cold tiers: with every put ("through"), `write_delay` seconds after it
    ("back"), or when it is evicted ("eviction", to the first tier that takes it; otherwise all get a copy).

    A block read from a cold tier comes into memory with its `promote_after`th read, one in memory gets a copy in a hot
    tier with its `hot_after`th. `prefetch` brings the cold blocks under a lease into memory before they are read.

    A block for which memory has no room goes straight to a cold tier; `staging` bytes beside the memory hold such
    blocks on their way.

    A lease lasts `lease` seconds unless its taker says otherwise, and `longest_lease` at most. A read from cold tiers
    fetches about `fetch_bytes` at a time.

    A namespace may hold `quota` bytes of memory (0: all of it), or what `quotas` says for its name; it may pin the
    share `pin_share` of the memory, and keep `durable_quota` bytes of durable blocks.
    """

    node: str = "local"
    write: Literal["through", "back", "eviction"] = "through"
    write_delay: Seconds = 5.0
    promote_after: int = 1
    hot_after: int = 2
    prefetch: bool = True
    staging: Bytes = 64 << 20
    lease: Seconds = 30.0
    longest_lease: Seconds = 600.0
    fetch_bytes: Bytes = 16 << 20
    backlog: int = 4096
    quota: Bytes = 0
    quotas: Mapping[str, Bytes] = field(default_factory=dict)
    pin_share: float = 0.25
    durable_quota: Bytes = 1 << 30

    def __post_init__(self) -> None:
        if not 0 < self.lease <= self.longest_lease:
            raise ConfigError(
                f"store.lease must lie between 0 and store.longest_lease = {self.longest_lease} s, got {self.lease}"
            )
        for name in ("backlog", "fetch_bytes", "promote_after", "hot_after"):
            if getattr(self, name) < 1:
                raise ConfigError(f"store.{name} must be at least 1, got {getattr(self, name)}")
        if self.staging < 4096:
            raise ConfigError(f"store.staging must be at least 4KiB, got {self.staging}")
        for name in ("write_delay", "quota", "durable_quota"):
            if getattr(self, name) < 0:
                raise ConfigError(f"store.{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.pin_share <= 1:
            raise ConfigError(f"store.pin_share must lie between 0 and 1, got {self.pin_share}")
        for namespace, quota in self.quotas.items():
            if not namespace or quota < 0:
                raise ConfigError(f"store.quotas.{namespace} must name a namespace and a size, got {quota}")
