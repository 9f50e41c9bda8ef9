"""Bodies of requests: every field of the official client's is known, and a hostile body costs one look."""

import inspect
import json
from typing import Any

import pytest
from openai.resources import Completions
from openai.resources.chat.completions import Completions as ChatCompletions
from pydantic import ValidationError

from gateway.errors import ApiError, api_error
from gateway.requests import ChatRequest, CompletionRequest

NOT_IN_THE_BODY = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
MESSAGE = {"role": "user", "content": "x"}
Kind = type[CompletionRequest] | type[ChatRequest]


def body(kind: Kind, **more: Any) -> bytes:
    own = {"prompt": "x"} if kind is CompletionRequest else {"messages": [MESSAGE]}
    return json.dumps({"model": "x", **own, **more}).encode()


def refused(kind: Kind, content: bytes) -> dict[str, Any]:
    with pytest.raises((ApiError, ValidationError)) as raised:
        kind.of(content)
    if isinstance(raised.value, ValidationError):
        assert raised.value.error_count() <= 20, "it is given up at the first wrong thing"
    error = api_error(raised.value)
    assert error.status == 400
    return dict(error.body["error"])


@pytest.mark.parametrize(
    ("kind", "create"), [(CompletionRequest, Completions.create), (ChatRequest, ChatCompletions.create)]
)
def test_every_field_of_the_official_client_is_known(kind: Kind, create: Any) -> None:
    assert set(inspect.signature(create).parameters) - NOT_IN_THE_BODY <= set(kind.model_fields)


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_what_is_left_out_may_be_null(kind: Kind) -> None:
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    assert kind.of(body(kind, **dict.fromkeys(optional))).model == "x"


@pytest.mark.parametrize(
    ("kind", "field", "neutral", "other"),
    [
        (CompletionRequest, "best_of", 1, 2),
        (CompletionRequest, "echo", False, True),
        (CompletionRequest, "suffix", "", "behind"),
        (CompletionRequest, "frequency_penalty", 0, 0.5),
        (CompletionRequest, "presence_penalty", 0.0, -1),
        (CompletionRequest, "logit_bias", {}, {"50256": -100}),
        (ChatRequest, "tools", [], [{"type": "function", "function": {"name": "f"}}]),
        (ChatRequest, "tool_choice", "none", "required"),
        (ChatRequest, "functions", [], [{"name": "f"}]),
        (ChatRequest, "function_call", "none", {"name": "f"}),
        (ChatRequest, "response_format", {"type": "text"}, {"type": "json_object"}),
        (ChatRequest, "response_format", {"type": "text"}, {"type": "json_schema", "json_schema": {}}),
        (ChatRequest, "modalities", ["text"], ["text", "audio"]),
        (ChatRequest, "audio", None, {"voice": "ash", "format": "mp3"}),
        (ChatRequest, "reasoning_effort", "none", "high"),
        (ChatRequest, "verbosity", "medium", "low"),
        (ChatRequest, "web_search_options", None, {}),
        (ChatRequest, "store", False, True),
    ],
)
def test_what_is_not_done_is_refused_by_name(kind: Kind, field: str, neutral: Any, other: Any) -> None:
    assert kind.of(body(kind, **{field: neutral}))
    assert refused(kind, body(kind, **{field: other}))["param"] == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user", "u"),
        ("metadata", {"a": "b"}),
        ("service_tier", "auto"),
        ("prompt_cache_key", "k"),
        ("prediction", {"a": 1}),
    ],
)
def test_what_says_nothing_about_the_answer_is_taken(field: str, value: Any) -> None:
    assert ChatRequest.of(body(ChatRequest, **{field: value}))


@pytest.mark.parametrize("prompt", ["a text", ["two", "texts"], [1, 2, 3], [[1, 2], [3]]])
def test_prompts(prompt: Any) -> None:
    assert CompletionRequest.of(body(CompletionRequest, prompt=prompt)).prompt == prompt


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"), (None, "prompt"), ([], "prompt"), ({}, "prompt"), ([1, "a"], "prompt"), ([True], "prompt"),
        ([1.5], "prompt"), ([1 << 32], "prompt"), ([[1], "a"], "prompt[1]"), ([[]], "prompt[0]"),
        (["a", 1], "prompt[1]"),
    ],
)  # fmt: skip
def test_what_is_no_prompt(prompt: Any, param: str) -> None:
    assert refused(CompletionRequest, body(CompletionRequest, prompt=prompt))["param"] == param


MANY = 20_000


@pytest.mark.parametrize(
    ("kind", "more", "param"),
    [
        (CompletionRequest, {"prompt": [-1] * MANY}, "prompt"),
        (CompletionRequest, {"prompt": ["a"] * MANY}, "prompt"),
        (CompletionRequest, {"prompt": [[1]] * MANY}, "prompt"),
        (CompletionRequest, {"stop": [""] * MANY}, "stop[0]"),
        (CompletionRequest, {"stop_token_ids": ["a"] * MANY}, "stop_token_ids[0]"),
        (CompletionRequest, {f"k{number}": 1 for number in range(MANY)}, "k0"),
        (ChatRequest, {"messages": [MESSAGE] * MANY}, "messages"),
        (ChatRequest, {"messages": [{"role": "pope"}] * 5000}, "messages[0].role"),
        (ChatRequest, {"messages": [{**MESSAGE, **{f"k{n}": 1 for n in range(MANY)}}]}, "messages[0].k0"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "image_url"}] * 1000}]}, None),
        (ChatRequest, {"stream_options": {f"k{n}": 1 for n in range(MANY)}, "stream": True}, "stream_options.k0"),
    ],
)  # fmt: skip
def test_a_hostile_body_costs_one_look(kind: Kind, more: dict[str, Any], param: str | None) -> None:
    error = refused(kind, body(kind, **more))
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"model": "\xff"}', b'{"a": "\\ud800"}', b'{"a": ' + b"9" * 9999 + b"}"]
)
def test_what_is_no_json(content: bytes) -> None:
    assert refused(CompletionRequest, content)["code"] == "invalid_json"


@pytest.mark.parametrize("content", [b"[1]", b"null", b'"text"', b"5"])
def test_what_is_no_object(content: bytes) -> None:
    assert refused(ChatRequest, content)["message"] == "the body must be a JSON object"


@pytest.mark.parametrize(
    ("kind", "more", "param"),
    [
        (CompletionRequest, {"prompt": ...}, "prompt"),
        (ChatRequest, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (ChatRequest, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ],
)
def test_what_is_missing_is_named(kind: Kind, more: dict[str, Any], param: str) -> None:
    given = {name: value for name, value in {**json.loads(body(kind)), **more}.items() if value is not ...}
    error = refused(kind, json.dumps(given).encode())
    assert (error["param"], error["code"]) == (param, "missing_required_parameter")
    assert error["message"] == f"{param} is missing"


@pytest.mark.parametrize(
    ("kind", "more", "param", "needed"),
    [
        (CompletionRequest, {"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        (ChatRequest, {"stream_options": {}, "stream": False}, "stream_options", "stream"),
        (ChatRequest, {"top_logprobs": 3}, "top_logprobs", "logprobs"),
        (ChatRequest, {"top_logprobs": 0, "logprobs": False}, "top_logprobs", "logprobs"),
    ],
)
def test_a_field_that_needs_another_is_named(kind: Kind, more: dict[str, Any], param: str, needed: str) -> None:
    error = refused(kind, body(kind, **more))
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert error["message"] == f"{param} needs {needed} = true"
