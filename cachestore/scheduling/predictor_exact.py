"""What whoever asks expects."""

from dataclasses import dataclass

from cachestore.scheduling.predictor import Request, outgrown


@dataclass(frozen=True)
class Exact:
    """Every output is as long as its request expects, or `max_tokens` if it does not say: for benchmarks. No settings.

    An output that is longer nevertheless is predicted to be twice as long.
    """

    def start(self) -> "Exact":
        return self

    def predict(self, request: Request, generated: int = 0) -> int:
        return request.max_tokens if request.expected is None else outgrown(request.expected, request, generated)

    def finished(self, request: Request, tokens: int) -> None:
        """Nothing is learnt."""
