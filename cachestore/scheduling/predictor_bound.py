"""No prediction at all."""

from dataclasses import dataclass

from cachestore.scheduling.predictor import Request


@dataclass(frozen=True)
class Bound:
    """Every output is as long as it may be: `max_tokens`. Never too short, mostly much too long. No settings."""

    def start(self) -> "Bound":
        return self

    def predict(self, request: Request, generated: int = 0) -> int:
        return request.max_tokens

    def finished(self, request: Request, tokens: int) -> None:
        """Nothing is learnt."""
