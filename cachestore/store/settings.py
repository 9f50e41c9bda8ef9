"""The `[store]` section."""

from dataclasses import dataclass
from typing import Literal

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError


@dataclass(frozen=True)
class StoreSettings:
    """`write` says when a block reaches the cold tiers: with every put ("through"), or when it is evicted.

    A lease lasts `lease` seconds unless its taker says otherwise, and `longest_lease` at most. A read from cold tiers
    fetches `fetch_bytes` at a time.
    """

    node: str = "local"
    write: Literal["through", "eviction"] = "through"
    lease: Seconds = 30.0
    longest_lease: Seconds = 600.0
    fetch_bytes: Bytes = 8 << 20
    backlog: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.lease <= self.longest_lease:
            raise ConfigError(
                f"store.lease must lie between 0 and store.longest_lease = {self.longest_lease} s, got {self.lease}"
            )
        if self.backlog < 1 or self.fetch_bytes < 1:
            raise ConfigError("store.backlog and store.fetch_bytes must be at least 1")
