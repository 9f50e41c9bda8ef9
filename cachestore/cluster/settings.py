"""The `[cluster]` section."""

from dataclasses import dataclass

from cachestore.config import Seconds
from cachestore.errors import ConfigError


@dataclass(frozen=True)
class ClusterSettings:
    """How many workers of each role, what each asks Ray for, and which Ray.

    `address` is empty for a Ray of our own on this machine, "auto" for the one this node belongs to, or `host:port`.
    """

    address: str = ""
    prefill: int = 2
    decode: int = 2
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    start_timeout: Seconds = 180.0

    def __post_init__(self) -> None:
        if self.prefill < 0 or self.decode < 0:
            raise ConfigError("cluster.prefill and cluster.decode must not be negative")
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise ConfigError("cluster.num_cpus and cluster.num_gpus must not be negative")
        if not self.start_timeout > 0:
            raise ConfigError(f"cluster.start_timeout must be more than 0 seconds, got {self.start_timeout}")

    def replicas(self) -> dict[str, int]:
        """How many workers of each role."""
        return {"prefill": self.prefill, "decode": self.decode}
