"""The `[cluster]` section."""

from dataclasses import dataclass

from cachestore.config import Seconds
from cachestore.errors import ConfigError


@dataclass(frozen=True)
class ClusterSettings:
    """How many workers of each role, what each asks Ray for, and which Ray.

    `address` is empty for a Ray of our own on this machine, "auto" for the one this node belongs to, or `host:port`.

    Every node has a store that has the label `store_label`, written "key" or "key=value", and the resource
    `store_resource`; of what is empty nothing is asked. Nodes that join are looked for every `watch` seconds.

    There are `prefill` and `decode` workers. Where `prefill_most` or `decode_most` names more, they become more while
    the workers of that role have more than `target_queue` requests each, waiting or running, for `scale_up_after`, and
    fewer again when fewer would do for `scale_down_after`. One that goes leaves the cluster map, takes no new requests,
    and has `drain` to finish those that it has.
    """

    address: str = ""
    store_label: str = ""
    store_resource: str = ""
    watch: Seconds = 2.0
    prefill: int = 2
    decode: int = 2
    prefill_most: int = 0
    decode_most: int = 0
    target_queue: float = 8.0
    scale_up_after: Seconds = 10.0
    scale_down_after: Seconds = 300.0
    drain: Seconds = 30.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    start_timeout: Seconds = 180.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.watch <= 3600:
            raise ConfigError(f"cluster.watch must lie between 0.1 seconds and an hour, got {self.watch:g}")
        if self.store_label.startswith("="):
            raise ConfigError(f'cluster.store_label must be "key" or "key=value", got {self.store_label!r}')
        if self.prefill < 0 or self.decode < 0:
            raise ConfigError("cluster.prefill and cluster.decode must not be negative")
        for role, fewest in self.replicas().items():
            most = getattr(self, f"{role}_most")
            if most and not 1 <= fewest <= most:
                raise ConfigError(
                    f"cluster.{role}_most must be 0 for no more than cluster.{role}, or at least that, which must then "
                    f"be 1 at least; got {most} and {fewest}"
                )
        if not self.target_queue > 0:
            raise ConfigError(f"cluster.target_queue must be more than 0 requests, got {self.target_queue}")
        for name in ("scale_up_after", "scale_down_after", "drain"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"cluster.{name} must be 0 seconds or more, got {getattr(self, name)}")
        if self.num_cpus < 0 or self.num_gpus < 0:
            raise ConfigError("cluster.num_cpus and cluster.num_gpus must not be negative")
        if not self.start_timeout > 0:
            raise ConfigError(f"cluster.start_timeout must be more than 0 seconds, got {self.start_timeout}")

    def replicas(self) -> dict[str, int]:
        """How many workers of each role there are at least."""
        return {"prefill": self.prefill, "decode": self.decode}

    def most(self) -> dict[str, int]:
        """How many there may be."""
        return {"prefill": self.prefill_most or self.prefill, "decode": self.decode_most or self.decode}

    def check_device(self, device: str) -> None:
        """ConfigError if workers would not see the `device` of `[engine]`: Ray shows each `num_gpus`, from 0 on."""
        kind, _, index = device.partition(":")
        if kind != "cuda" or not any(self.most().values()):
            return
        if not self.num_gpus:
            raise ConfigError(
                f"engine.device = {device!r} needs cluster.num_gpus: with 0 Ray shows workers no device; set it to "
                "what each is to have of one (1 is a whole one), or use engine.device = 'cpu'"
            )
        if int(index or 0) >= max(self.num_gpus, 1):
            raise ConfigError(
                f"engine.device = {device!r}: with cluster.num_gpus = {self.num_gpus:g} a worker sees no device of "
                "that index, since its own begin at 0; use engine.device = 'cuda'"
            )
