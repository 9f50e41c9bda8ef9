"""The bodies of requests, field by field as OpenAI describes them (platform.openai.com/docs/api-reference).

What would change the answer and is not known here is refused by name; what says something about the request and
nothing about the answer (`user`, `metadata`, ...) is taken and ignored. `top_k`, `min_p` and `stop_token_ids` are
extensions that other servers have too. `cache` is one of ours: with `false` nothing is reused, and nothing stored.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError, from_json

from gateway.errors import NEEDS, UNKNOWN, ApiError

MOST_CHOICES = 16
MOST_MESSAGES = 8192
MOST_PARTS = 1024
MOST_STOPS = 16
LONGEST_STOP = 256
MOST_TOP_LOGPROBS = 20
MOST_STOP_TOKENS = 128

Ignored = Any
"""Says nothing about the answer."""


def _only(*neutral: object) -> AfterValidator:
    """For a field that is known, and of which only these values ask for what is done here."""

    def check(value: object) -> object:
        if value is not None and value not in neutral:
            only = f"only {' or '.join(map(repr, neutral))} is" if neutral else "this is not"
            raise ValueError(f"{only} supported here")
        return value

    return AfterValidator(check)


def _token_ids(tokens: list[Any]) -> list[int]:
    # item by item it takes half a second for a million of them, in which nobody else is answered
    if set(map(type, tokens)) != {int} or min(tokens) < 0 or max(tokens) >= 1 << 32:
        raise ValueError("token ids must be whole numbers from 0 on")
    return tokens


def _form(prompt: object) -> str:
    """Which of its forms a prompt has: only that one is tried."""
    if isinstance(prompt, str):
        return "text"
    first = prompt[0] if isinstance(prompt, list) and prompt else ""
    return "texts" if isinstance(first, str) else "many" if isinstance(first, list) else "tokens"


StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
TokenIds = Annotated[list[Any], Field(min_length=1), AfterValidator(_token_ids)]
Several = Field(min_length=1, max_length=MOST_CHOICES, fail_fast=True)
Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Several, Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Several, Tag("many")],
    Discriminator(_form),
]


class Known(BaseModel):
    """An object of which every field is known. The first wrong thing is told, and the rest not looked for."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_known(cls, given: object) -> object:
        for name in given if isinstance(given, Mapping) else ():
            if name not in cls.model_fields:
                raise PydanticCustomError(UNKNOWN, "is not supported here", {"name": name})
        return given


class StreamOptions(Known):
    """`include_usage` asks for one more chunk at the end, with the usage alone."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class Generation(Known, ABC):
    """What both kinds of request have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS, fail_fast=True)] | None = None
    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MOST_STOP_TOKENS, fail_fast=True)] | None
    ) = None
    cache: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Annotated[Any, _only(0, 0.0)] = None
    presence_penalty: Annotated[Any, _only(0, 0.0)] = None
    logit_bias: Annotated[Any, _only({})] = None
    metadata: Ignored = None
    prediction: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Annotated[Any, _only(False)] = None
    user: Ignored = None

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The request in this body. ApiError for what is no JSON object, ValidationError for another one."""
        try:
            given = from_json(body)
        except ValueError as error:
            raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from None
        if not isinstance(given, dict):
            raise ApiError(400, "the body must be a JSON object", code="invalid_type")
        return cls.model_validate(given)

    @model_validator(mode="after")
    def _options_need_stream(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(NEEDS, "needs stream = true", {"name": "stream_options"})
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    @abstractmethod
    def told(self) -> int | None:
        """How many of the likeliest tokens are told beside each one; None if not even its own chance is."""


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    best_of: Annotated[Any, _only(1)] = None
    echo: Annotated[Any, _only(False)] = None
    suffix: Annotated[Any, _only("")] = None

    @property
    def told(self) -> int | None:
        return self.logprobs


class TextPart(Known):
    """A piece of a message. Only text has one here."""

    type: Literal["text"]
    text: str


class Message(Known):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True)]
    name: str | None = None
    refusal: Annotated[Any, _only()] = None
    annotations: Annotated[Any, _only([])] = None
    audio: Annotated[Any, _only()] = None
    function_call: Annotated[Any, _only()] = None
    tool_calls: Annotated[Any, _only([])] = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        # templates know the older name of the role
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content} | ({"name": self.name} if self.name else {})


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: Annotated[Any, _only({"type": "text"})] = None
    modalities: Annotated[Any, _only(["text"])] = None
    tools: Annotated[Any, _only([])] = None
    tool_choice: Annotated[Any, _only("none", "auto")] = None
    parallel_tool_calls: Ignored = None
    functions: Annotated[Any, _only([])] = None
    function_call: Annotated[Any, _only("none", "auto")] = None
    reasoning_effort: Annotated[Any, _only("none")] = None
    verbosity: Annotated[Any, _only("medium")] = None
    moderation: Annotated[Any, _only()] = None
    audio: Annotated[Any, _only()] = None
    web_search_options: Annotated[Any, _only()] = None

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError(NEEDS, "needs logprobs = true", {"name": "top_logprobs"})
        return self

    @property
    def told(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None
