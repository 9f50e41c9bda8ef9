"""The settings of the gpu tier; what it is stands in `cachestore.tiers.gpu_tier`."""

import re
from dataclasses import dataclass
from functools import partial

from cachestore.config import Bytes
from cachestore.errors import ConfigError
from cachestore.eviction.base import Eviction
from cachestore.tiers.gpu_memory import GRANULE, memory_of
from cachestore.tiers.gpu_tier import GpuTier

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_LARGEST_SLAB = 64 << 20


@dataclass(frozen=True)
class Gpu:
    """`capacity` bytes of `device` at most, in slabs of `slab` bytes (0: an eighth of it, at most 64 MiB).

    Slabs are whole multiples of 2 MiB. With `verify` the checksums of a page are taken again whenever it is handed out
    on the device, by a kernel where Triton is installed, else from a copy in host memory; without, the device's memory
    is trusted between put and use.
    """

    capacity: Bytes
    device: str = "cuda"
    slab: Bytes = 0
    verify: bool = True

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f'tiers.gpu.device must be "cuda", "cuda:N" or "cpu", got {self.device!r}')
        if self.capacity < GRANULE:
            raise ConfigError(f"tiers.gpu.capacity must be at least 2MiB, got {self.capacity}")
        if not 0 <= self.slab <= self.capacity:
            raise ConfigError(f"tiers.gpu.slab must lie between 0 and the capacity, got {self.slab}")

    def check(self) -> None:
        """As in `Checkable`."""
        memory_of(self.device)

    def start(self, eviction: Eviction) -> GpuTier:
        memory = partial(memory_of, self.device)
        return GpuTier(memory, self.capacity, self.slab_bytes, eviction, self.verify)

    @property
    def slab_bytes(self) -> int:
        """How large a slab is."""
        wanted = self.slab or min(self.capacity // 8, _LARGEST_SLAB)
        return max(1, wanted // GRANULE) * GRANULE
