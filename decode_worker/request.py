"""What a generation is asked with, what it gives, and their form on the wire."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cachestore.errors import InvalidArgument
from cachestore.service import convert
from cachestore.wire import worker_pb2 as wire
from prefill_worker.prompt import Prompt, check_logprobs, prompt, prompt_fields
from prefill_worker.token import Reuse, Token, reuse, reuse_message, token, token_message

if TYPE_CHECKING:
    from cachestore.engine.paged_model import PagedModel

LOCAL = "local"
MOST_STOP_TOKENS = 256


@dataclass(frozen=True)
class Request:
    """At most `max_tokens` tokens behind `prompt`; they end with one of `stop_tokens` or of the model's end tokens.

    With `logprobs`, so many of the likeliest tokens are told beside each one; None tells nothing.
    """

    prompt: Prompt
    max_tokens: int
    stop_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None

    def check(self, model: "PagedModel") -> None:
        """InvalidArgument, naming the field, for what this model cannot do."""
        self.prompt.check(model)
        if self.max_tokens < 1:
            raise InvalidArgument("max_tokens must be at least 1")
        check_logprobs(self.logprobs)
        if len(self.stop_tokens) > MOST_STOP_TOKENS:
            raise InvalidArgument(f"stop_tokens must be at most {MOST_STOP_TOKENS}, got {len(self.stop_tokens)}")
        if not all(0 <= token < model.vocabulary for token in self.stop_tokens):
            raise InvalidArgument(f"stop_tokens must lie in 0 .. {model.vocabulary - 1}")


@dataclass(frozen=True)
class Usage:
    """How a generation went; it comes behind the last token.

    `reuse` says how the prompt's KV came about where it was first made, `prefilled_by` where that was: a prefill
    worker's name or "local". Of a handoff, `loaded_tokens` came from the store, the others were in pages here or were
    computed again. `first_token_ms` runs from the request's arrival. `finish` is "stop" or "length".
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
        return token(message.token)
    usage = message.usage
    return Usage(
        usage.prompt_tokens, usage.generated_tokens, reuse(usage.reuse), convert.name(usage.finish, "finish"),
        convert.name(usage.prefilled_by, "prefilled_by"), usage.first_token_ms, usage.loaded_tokens,
    )  # fmt: skip


def answer_message(value: Token | Usage) -> wire.GenerateResponse:
    """The other way."""
    if isinstance(value, Token):
        return wire.GenerateResponse(token=token_message(value))
    usage = wire.Usage(
        prompt_tokens=value.prompt_tokens, generated_tokens=value.generated_tokens, reuse=reuse_message(value.reuse),
        finish=value.finish, prefilled_by=value.prefilled_by, first_token_ms=value.first_token_ms,
        loaded_tokens=value.loaded_tokens,
    )  # fmt: skip
    return wire.GenerateResponse(usage=usage)
