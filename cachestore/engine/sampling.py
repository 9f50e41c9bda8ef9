"""Which token comes next: greedy, or drawn from the best few with a seed of the request's own."""

from dataclasses import dataclass

import torch

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


class Sampler:
    """Draws the tokens of one request. The same logits and seed give the same tokens on any device."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator("cpu").manual_seed(sampling.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """The next token from `logits`, shaped [vocabulary]."""
        how = self._sampling
        scores = logits.detach().to("cpu", torch.float32)
        if how.temperature == 0.0:
            return int(scores.argmax())
        scores, tokens = (scores / how.temperature).sort(descending=True, stable=True)
        if how.top_k:
            scores, tokens = scores[: how.top_k], tokens[: how.top_k]
        chances = scores.softmax(-1)
        if how.top_p:
            # a token stays if the better ones do not reach top_p without it; so the best always stays
            chances = chances.where(chances.cumsum(-1) - chances < how.top_p, 0.0)
        if how.min_p:
            chances = chances.where(chances >= how.min_p * chances[0], 0.0)
        return int(tokens[torch.multinomial(chances, 1, generator=self._random)])
