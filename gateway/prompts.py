"""From a request's words to what a decode worker is asked: tokens, how to draw the next ones, and where to end."""

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from cachestore.engine.stopping import Stop
from cachestore.wire import worker_pb2 as wire
from gateway.errors import ApiError, invalid
from gateway.requests import ChatRequest, CompletionRequest, Generation
from gateway.served import Served

DEFAULT_COMPLETION = 16
"""Tokens of a completion whose request does not say (OpenAI's own default)."""

LONG = 8192
"""Characters from which a prompt is tokenised beside the event loop: below, the change of threads costs more."""

SMALLEST = 2.0**-126
"""What the wire's numbers tell from zero."""

_BESIDE = ThreadPoolExecutor(2, thread_name_prefix="gateway-tokens")
"""Few, so that many long prompts at once leave processors, and the threads of everything else, to the others."""


@dataclass(frozen=True)
class Asked:
    """One sequence to generate behind `tokens`; `logprobs` as in `Generation.told`.

    Without `cache` nothing stored is used for it, and nothing of it is stored.
    """

    tokens: Sequence[int]
    sampling: wire.Sampling
    stop: Stop
    logprobs: int | None
    cache: bool = True


async def asked(served: Served, request: CompletionRequest | ChatRequest) -> list[Asked]:
    """The sequences that `request` asks for: `n` for each prompt, one prompt behind the other.

    ApiError 404 for another model, 400 for a prompt that is too long or cannot be written in the model's words.
    """
    if request.model != served.name:
        message = f"the model {request.model!r} does not exist here; GET /v1/models names those that do"
        raise ApiError(404, message, param="model", code="model_not_found")
    if _characters(request) < LONG:
        prompts = _tokens(served, request)
    else:
        prompts = await asyncio.get_running_loop().run_in_executor(_BESIDE, _tokens, served, request)
    param = "messages" if isinstance(request, ChatRequest) else "prompt"
    found: list[Asked] = []
    for tokens in prompts:
        stop = Stop(_most(served, request, len(tokens), param), _ends(served, request), request.stops)
        cached = request.cache is not False
        found += [Asked(tokens, sampling, stop, request.told, cached) for sampling in _samplings(request)]
    return found


def _characters(request: CompletionRequest | ChatRequest) -> int:
    if isinstance(request, ChatRequest):
        return sum(len(message.plain()["content"]) for message in request.messages)
    return len(request.prompt) if isinstance(request.prompt, str) else sum(map(len, map(str, request.prompt)))


def _tokens(served: Served, request: CompletionRequest | ChatRequest) -> list[list[int]]:
    if isinstance(request, ChatRequest):
        return [_chat(served, request)]
    given = request.prompt
    if isinstance(given, str):
        return [served.tokens(given)]
    if isinstance(given[0], int):
        return [_checked(served, given)]
    return [served.tokens(each) if isinstance(each, str) else _checked(served, each) for each in given]


def _chat(served: Served, request: ChatRequest) -> list[int]:
    if not served.tokenizer.chat_template:
        raise invalid(f"{served.name} has no chat template; use /v1/completions", "messages", "unsupported_model")
    try:
        text = served.tokenizer.apply_chat_template(
            [message.plain() for message in request.messages], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a template is a program of the model's, which these messages bring to its end
        raise invalid(f"the model's chat template refuses these messages: {error}", "messages") from error
    # the template writes the signs of beginnings itself
    return served.tokens(text, signs=False)


def _checked(served: Served, tokens: list[Any]) -> list[int]:
    if max(tokens) >= served.vocabulary:
        raise invalid(f"prompt: token ids must lie in 0 .. {served.vocabulary - 1}", "prompt")
    return tokens


def _most(served: Served, request: Generation, prompt: int, param: str) -> int:
    if not prompt:
        raise invalid(f"{param} must have one token at least", param)
    # the last token of all needs no KV, so one more fits than the model takes
    room = served.max_tokens - prompt + 1
    if room < 1:
        raise invalid(
            f"{param}: the model takes {served.max_tokens} tokens, and this has at least {prompt}", param,
            "context_length_exceeded",
        )  # fmt: skip
    if isinstance(request, ChatRequest):
        wanted = request.max_completion_tokens or request.max_tokens or room
        limit = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    else:
        limit = "max_tokens"
        wanted = request.max_tokens or DEFAULT_COMPLETION
        if request.max_tokens is None:
            wanted = min(wanted, room)
    if wanted > room:
        raise invalid(
            f"{limit}: the model takes {served.max_tokens} tokens; behind the {prompt} of the prompt there is room "
            f"for {room}, and {wanted} are asked for", limit, "context_length_exceeded",
        )  # fmt: skip
    return wanted


def _ends(served: Served, request: Generation) -> frozenset[int]:
    own = frozenset(request.stop_token_ids or ())
    if own and max(own) >= served.vocabulary:
        raise invalid(f"stop_token_ids must lie in 0 .. {served.vocabulary - 1}", "stop_token_ids")
    return own | served.ends


def _samplings(request: Generation) -> list[wire.Sampling]:
    """One for each choice: they differ in the seed."""
    temperature = 1.0 if request.temperature is None else request.temperature
    top_k, top_p = request.top_k or 0, 1.0 if request.top_p is None else request.top_p
    if top_p < SMALLEST:
        # of the likeliest tokens as few as possible; on the wire zero means all
        top_k, top_p = 1, 1.0
    seed = secrets.randbits(62) if request.seed is None else request.seed
    return [
        wire.Sampling(
            temperature=temperature, top_k=top_k, top_p=0.0 if top_p == 1.0 else top_p, min_p=request.min_p or 0.0,
            seed=(seed + choice) % (1 << 63),
        )
        for choice in range(request.n or 1)
    ]  # fmt: skip
