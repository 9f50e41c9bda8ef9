"""The `[batch]` section: how much memory sequences share, and the bounds on their number and on calls to stores."""

from dataclasses import dataclass, field
from typing import Any

from cachestore.config import Bytes, Seconds
from cachestore.errors import ConfigError
from cachestore.scheduling.compose import DEFAULT, compose


@dataclass(frozen=True)
class BatchSettings:
    """The serving loop's settings.

    `pages` is how many blocks of KV the engine holds; if 0, `memory` says it in bytes. A step computes one token of
    each sequence whose prompt is done, and `chunk_tokens` of prompts. At most `max_batch` sequences run at a time and
    `max_waiting` wait. Reads take `store_timeout` at most, puts `put_timeout`; each kind has `io_threads` threads.
    Puts that are under way hold at most the part `put_share` of the pages. With `recompute`, stored blocks are computed
    again where that was measured to be faster than to fetch them. `scheduling` is the table `[scheduling]`.
    """

    pages: int = 0
    memory: Bytes = 1 << 30
    chunk_tokens: int = 256
    max_batch: int = 32
    max_waiting: int = 128
    io_threads: int = 4
    store_timeout: Seconds = 5.0
    put_timeout: Seconds = 10.0
    put_share: float = 0.25
    recompute: bool = True
    scheduling: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT))

    def __post_init__(self) -> None:
        if self.pages < 0:
            raise ConfigError(f"batch.pages must be 0 (batch.memory says it) or more, got {self.pages}")
        for name in ("memory", "chunk_tokens", "max_batch", "max_waiting", "io_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"batch.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("store_timeout", "put_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"batch.{name} must be more than 0 seconds, got {getattr(self, name)}")
        if not 0 <= self.put_share <= 1:
            raise ConfigError(f"batch.put_share must lie in 0 .. 1, got {self.put_share}")
        compose(self.scheduling)
