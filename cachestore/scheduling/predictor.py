"""How long will an output be? The contract of a predictor, and the count of how wrong it was."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """What is known of a request when it comes.

    namespace: of the tenant it belongs to; nothing learnt in one is used in another
    prompt_tokens: how long its prompt is
    max_tokens: how many tokens its output may have at most, at least 1
    expected: how many it will have, if whoever asks knows, as a benchmark does
    """

    namespace: str
    prompt_tokens: int
    max_tokens: int
    expected: int | None = None


class Predictor(Protocol):
    """Guesses lengths; one for all namespaces. One thread at a time."""

    def predict(self, request: Request, generated: int = 0) -> int:
        """How many tokens the output will have in all: more than the `generated` ones, `max_tokens` at most."""

    def finished(self, request: Request, tokens: int) -> None:
        """An output came to its end with so many tokens; those that were aborted tell nothing and are not reported."""


class Prediction(Protocol):
    """The settings of a predictor."""

    def start(self) -> Predictor:
        """A predictor that has seen nothing yet."""


@dataclass
class PredictionErrors:
    """How wrong predictions were. Those made when a request came are counted, not those made when one was too short.

    outputs: outputs that ended
    tokens: their tokens
    short: outputs that were longer than predicted
    tokens_under: by how many tokens these were, in all
    tokens_over: how many predicted tokens the others never came to, in all
    """

    outputs: int = 0
    tokens: int = 0
    short: int = 0
    tokens_under: int = 0
    tokens_over: int = 0

    def add(self, predicted: int, tokens: int) -> None:
        """An output that was predicted to have `predicted` tokens had `tokens`."""
        self.outputs += 1
        self.tokens += tokens
        self.short += tokens > predicted
        self.tokens_under += max(0, tokens - predicted)
        self.tokens_over += max(0, predicted - tokens)

    @property
    def absolute(self) -> int:
        """By how many tokens predictions were wrong, in all."""
        return self.tokens_under + self.tokens_over


def outgrown(predicted: int, request: Request, generated: int) -> int:
    """A prediction that is too short, doubled until it is not: so an output outgrows few of them."""
    while predicted <= generated:
        predicted = max(1, 2 * predicted)
    return min(predicted, request.max_tokens)
