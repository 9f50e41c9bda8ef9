"""What outputs of the same namespace were."""

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from dataclasses import dataclass

from cachestore.errors import ConfigError
from cachestore.scheduling.predictor import Request, outgrown

_NAMESPACES = 1024
"""So many are remembered; the one that no output ended in for longest is forgotten first."""


@dataclass(frozen=True)
class History:
    """Predicts a quantile of the lengths of the last outputs in the same namespace.

    Of an output that has outgrown its prediction, only those that were longer still are considered.

    quantile: the share of outputs that are to be no longer than predicted
    remember: how many outputs of each namespace are remembered
    least: while fewer are, the prediction is `max_tokens`
    """

    quantile: float = 0.9
    remember: int = 1000
    least: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ConfigError(f"scheduling.predictor.quantile = {self.quantile} must be above 0, and 1 at most")
        if not 1 <= self.least <= self.remember:
            raise ConfigError(
                f"scheduling.predictor.least = {self.least} must be at least 1 and at most `remember` = {self.remember}"
            )

    def start(self) -> "HistoryPredictor":
        return HistoryPredictor(self)


class HistoryPredictor:
    """By namespace, the lengths of the last outputs: in the order in which they ended, and sorted."""

    def __init__(self, settings: History) -> None:
        self._settings = settings
        self._seen: OrderedDict[str, tuple[deque[int], list[int]]] = OrderedDict()

    def predict(self, request: Request, generated: int = 0) -> int:
        if request.namespace not in self._seen:
            return request.max_tokens
        _, lengths = self._seen[request.namespace]
        if len(lengths) < self._settings.least:
            return request.max_tokens
        longer = bisect_right(lengths, generated)
        if longer == len(lengths):
            return outgrown(lengths[-1], request, generated)
        at = longer + math.ceil(self._settings.quantile * (len(lengths) - longer)) - 1
        return min(lengths[at], request.max_tokens)

    def finished(self, request: Request, tokens: int) -> None:
        ended, lengths = self._seen.setdefault(request.namespace, (deque(), []))
        self._seen.move_to_end(request.namespace)
        ended.append(tokens)
        insort(lengths, tokens)
        if len(ended) > self._settings.remember:
            del lengths[bisect_left(lengths, ended.popleft())]
        if len(self._seen) > _NAMESPACES:
            self._seen.popitem(last=False)
