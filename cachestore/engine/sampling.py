"""How a request wants its tokens drawn: greedily, or from the best few with a seed of its own."""

from dataclasses import dataclass

from cachestore.errors import InvalidArgument


@dataclass(frozen=True)
class Sampling:
    """How a request draws its tokens. Temperature 0 is greedy; `top_k`, `top_p` and `min_p` of 0 do not restrict."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 0.0
    seed: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise InvalidArgument(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k < 0:
            raise InvalidArgument(f"top_k must be 0 or more, got {self.top_k}")
        if not 0.0 <= self.top_p <= 1.0:
            raise InvalidArgument(f"top_p must lie in 0 .. 1, got {self.top_p}")
        if not 0.0 <= self.min_p <= 1.0:
            raise InvalidArgument(f"min_p must lie in 0 .. 1, got {self.min_p}")
        if not 0 <= self.seed < 1 << 63:
            raise InvalidArgument(f"seed must lie in 0 .. 2**63 - 1, got {self.seed}")
