"""The `[engine]` section: which model, where and how it computes."""

import re
from dataclasses import dataclass

from cachestore.errors import ConfigError, InvalidArgument
from cachestore.recipe import canonical

DTYPES = ("float32", "bfloat16", "float16")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class EngineSettings:
    """What the reference engine runs.

    `model` is a directory or a hub id, `revision` the branch, tag or commit of a hub id. `block_tokens` is the block
    size of the spec.
    `head_groups = 0` chooses the largest number up to 8 that divides the KV heads. `threads = 0` leaves the number of
    compute threads of the process alone. With `packed`, linear weights in 32-bit floats on a CPU are held a second time
    in the form in which batches are computed faster.
    `recipe` rounds the KV of full blocks, in the engine's pages too, as `quantisation=int8` does. It is part of every
    key: engines with another one, or none, share nothing. Empty: exact.
    """

    model: str
    revision: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    block_tokens: int = 64
    head_groups: int = 0
    adapter: str = ""
    recipe: str = ""
    threads: int = 0
    packed: bool = True

    def __post_init__(self) -> None:
        if not self.model:
            raise ConfigError("engine.model must not be empty; name a model directory or a hub id")
        if self.dtype not in DTYPES:
            raise ConfigError(f"engine.dtype {self.dtype!r} is unknown; use one of {', '.join(DTYPES)}")
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"engine.device {self.device!r} is unknown; use 'cpu', 'cuda' or 'cuda:<index>'")
        if self.block_tokens < 1:
            raise ConfigError(f"engine.block_tokens must be at least 1, got {self.block_tokens}")
        for name in ("head_groups", "threads"):
            if getattr(self, name) < 0:
                raise ConfigError(f"engine.{name} must not be negative, got {getattr(self, name)}")
        try:
            canonical(self.recipe)
        except InvalidArgument as error:
            raise ConfigError(f"engine.{error}") from error
        if self.adapter:
            raise ConfigError("engine.adapter must be empty: the reference engine applies no adapters; merge it first")
