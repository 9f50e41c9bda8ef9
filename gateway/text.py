"""One choice as its tokens come: text that may be shown, whole characters only, cut exactly before a stop string."""

from dataclasses import dataclass, field
from typing import NamedTuple

from cachestore.engine.stopping import REPLACEMENT, Finish, Stopping
from cachestore.wire import worker_pb2 as wire
from gateway.errors import ApiError
from gateway.prompts import Asked
from gateway.served import Served


class Chance(NamedTuple):
    """A token as text, and the natural logarithm of its probability."""

    text: str
    logprob: float

    @property
    def bytes(self) -> list[int] | None:
        """Its bytes, which only a whole character tells."""
        return None if REPLACEMENT in self.text else list(self.text.encode())


class Told(NamedTuple):
    """What was drawn, and the likeliest tokens in its place."""

    drawn: Chance
    top: tuple[Chance, ...]


class Piece(NamedTuple):
    """What one token adds to a choice; `finish` is empty until the last one."""

    text: str
    told: Told | None
    finish: str


@dataclass(eq=False)
class Choice:
    """The text of one sequence. `count` tokens were made, and `cached` of its prompt's were not computed for it.

    Its tokens may come from several workers, one behind the other.
    """

    served: Served
    asked: Asked
    count: int = 0
    cached: int = 0
    _stopping: Stopping = field(init=False)

    def __post_init__(self) -> None:
        self._stopping = Stopping(self.asked.stop, lambda tokens: self.served.text(list(tokens)))

    @property
    def finished(self) -> bool:
        """Whether nothing more belongs to it."""
        return self._stopping.finish is not None

    @property
    def tokens(self) -> list[int]:
        """The prompt and what was made of it."""
        return [*self.asked.tokens, *self._stopping.tokens]

    def message(self, request_id: str) -> wire.GenerateRequest:
        """What a worker is sent that is to make the rest."""
        asked = self.asked
        return wire.GenerateRequest(
            request_id=request_id, tokens=self.tokens, sampling=asked.sampling,
            max_tokens=asked.stop.max_tokens - len(self._stopping.tokens), stop_tokens=sorted(asked.stop.tokens),
            logprobs=asked.logprobs, cache=wire.READ_AND_WRITE if asked.cache else wire.OFF,
        )  # fmt: skip

    @property
    def ended_there(self) -> bool:
        """Whether the worker ends it too, by itself: it knows tokens, and nothing of stop strings."""
        stop, tokens = self.asked.stop, self._stopping.tokens
        return len(tokens) >= stop.max_tokens or tokens[-1] in stop.tokens

    def add(self, token: wire.Token) -> Piece:
        """Takes the next token. ApiError if the worker tells no probabilities and they were asked for."""
        if not self.count and token.HasField("reuse"):
            # whoever goes on in the middle reuses what was made here, too
            self.cached = sum(token.reuse.reused_tokens.values())
        self.count += 1
        text = self._stopping.add(token.id)
        return Piece(text, self._told(token), self._stopping.finish or "")

    def end(self, finish: str) -> Piece:
        """The worker ended it, earlier than it had to: what was held back is shown now."""
        self._stopping.finish = Finish(finish)
        text = self.served.text(list(self._stopping.tokens))
        return Piece(text[len(self._stopping.text) :], None, finish)

    def _told(self, token: wire.Token) -> Told | None:
        if self.asked.logprobs is None:
            return None
        if not token.HasField("logprob"):
            raise ApiError(400, "logprobs are not supported by the workers of this model", param="logprobs")
        read = self.served.sign
        top = tuple(Chance(read(each.id), each.logprob) for each in token.top[: self.asked.logprobs])
        return Told(Chance(read(token.id), token.logprob), top)
