"""What a generation is asked with, what it gives, and their form on the wire."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachestore.errors import InvalidArgument
from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from prefill_worker.handoff import Reuse, reuse, reuse_message
from prefill_worker.prompt import Prompt, prompt, prompt_fields

if TYPE_CHECKING:
    from cachestore.engine.hf import HfEngine

STOP, LENGTH = "stop", "length"
LOCAL = "local"
MOST_STOP_TOKENS = 256
MOST_LOGPROBS = 20


@dataclass(frozen=True)
class Request:
    """At most `max_tokens` tokens behind `prompt`; they end with one of `stop_tokens` or of the model's end tokens.

    With `logprobs`, so many of the likeliest tokens are told beside each one; None tells nothing.
    """

    prompt: Prompt
    max_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None

    def check(self, engine: "HfEngine") -> None:
        """InvalidArgument, naming the field, for what this engine cannot do."""
        self.prompt.check(engine)
        if self.max_tokens < 1:
            raise InvalidArgument("max_tokens must be at least 1")
        if (self.logprobs or 0) > MOST_LOGPROBS:
            raise InvalidArgument(f"logprobs must be at most {MOST_LOGPROBS}, got {self.logprobs}")
        if len(self.stop_tokens) > MOST_STOP_TOKENS:
            raise InvalidArgument(f"stop_tokens must be at most {MOST_STOP_TOKENS}, got {len(self.stop_tokens)}")
        if not all(0 <= token < engine.vocabulary for token in self.stop_tokens):
            raise InvalidArgument(f"stop_tokens must lie in 0 .. {engine.vocabulary - 1}")


@dataclass(frozen=True)
class Token:
    """One generated token and its place among them, from 0. With the first one comes `reuse`, as in the usage.

    Where the request asked for it, `logprob` is the natural logarithm of its probability and `top` that of the
    likeliest tokens by token, before sampling changed them.
    """

    id: int
    index: int
    reuse: Reuse | None = None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """How a generation went; it comes behind the last token.

    `reuse` says how the prompt's KV came about where it was first made, `prefilled_by` where that was: a prefill
    worker's name or "local". Of a handoff, `loaded_tokens` came from the store, the other prompt tokens were computed
    again here. `first_token_ms` runs from the request's arrival. `finish` is "stop" or "length".
    """

    prompt_tokens: int
    generated_tokens: int
    reuse: Reuse
    finish: str
    prefilled_by: str
    first_token_ms: float
    loaded_tokens: int


def request(message: wire.GenerateRequest) -> Request:
    """The request on the wire."""
    logprobs = message.logprobs if message.HasField("logprobs") else None
    return Request(prompt(message), message.max_tokens, frozenset(message.stop_tokens), logprobs)


def request_message(value: Request, request_id: str) -> wire.GenerateRequest:
    """The other way."""
    return wire.GenerateRequest(
        request_id=request_id,
        max_tokens=value.max_tokens,
        stop_tokens=sorted(value.stop_tokens),
        logprobs=value.logprobs,
        **prompt_fields(value.prompt),
    )


def answer(message: wire.GenerateResponse) -> Token | Usage:
    """One message of the answer."""
    if message.WhichOneof("message") == "token":
        return _token(message.token)
    usage = message.usage
    return Usage(
        usage.prompt_tokens, usage.generated_tokens, reuse(usage.reuse), convert.name(usage.finish, "finish"),
        convert.name(usage.prefilled_by, "prefilled_by"), usage.first_token_ms, usage.loaded_tokens,
    )  # fmt: skip


def answer_message(value: Token | Usage) -> wire.GenerateResponse:
    """The other way."""
    if isinstance(value, Token):
        return wire.GenerateResponse(token=_token_message(value))
    usage = wire.Usage(
        prompt_tokens=value.prompt_tokens, generated_tokens=value.generated_tokens, reuse=reuse_message(value.reuse),
        finish=value.finish, prefilled_by=value.prefilled_by, first_token_ms=value.first_token_ms,
        loaded_tokens=value.loaded_tokens,
    )  # fmt: skip
    return wire.GenerateResponse(usage=usage)


def _token(message: wire.Token) -> Token:
    return Token(
        message.id, message.index, reuse(message.reuse) if message.HasField("reuse") else None,
        message.logprob if message.HasField("logprob") else None,
        tuple((each.id, each.logprob) for each in message.top),
    )  # fmt: skip


def _token_message(value: Token) -> wire.Token:
    return wire.Token(
        id=value.id, index=value.index, reuse=None if value.reuse is None else reuse_message(value.reuse),
        logprob=value.logprob, top=[wire.TopLogprob(id=token, logprob=chance) for token, chance in value.top],
    )  # fmt: skip
