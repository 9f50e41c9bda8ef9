"""Requests that cannot be meant are refused in OpenAI's words, and harm nobody else."""

from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.gateway.conftest import MODEL, Served


def refused(served: Served, path: str, **changes: Any) -> dict[str, Any]:
    """The error object of a request that is otherwise in order; what is changed to `...` is left out."""
    usual: dict[str, Any] = {"model": MODEL, "max_tokens": 4}
    usual |= {"prompt": "x"} if path == "completions" else {"messages": [{"role": "user", "content": "x"}]}
    body = {name: value for name, value in {**usual, **changes}.items() if value is not ...}
    answer = httpx.post(f"{served.url}/v1/{path}", json=body, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return {**error, "status": answer.status_code}


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "another"}, 404, "model"),
        ({"model": 5}, 400, "model"),
        ({"model": ...}, 400, "model"),
        ({"prompt": ...}, 400, "prompt"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [300]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": {"a": 1}}, 400, "prompt"),
        ({"prompt": "x" * 2000}, 400, "prompt"),
        ({"max_tokens": 2000}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "5"}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 2.5}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 1.5}, 400, "top_p"),
        ({"n": 0}, 400, "n"),
        ({"n": 1000}, 400, "n"),
        ({"seed": 1 << 70}, 400, "seed"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a"] * 99}, 400, "stop"),
        ({"stop": 5}, 400, "stop"),
        ({"stop_token_ids": [9999]}, 400, "stop_token_ids"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"best_of": 3}, 400, "best_of"),
        ({"echo": True}, 400, "echo"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": "yes"}, 400, "stream"),
        ({"temperatur": 1}, 400, "temperatur"),
    ],
)
def test_completions_that_cannot_be_meant(served: Served, changes: Any, status: int, param: str | None) -> None:
    error = refused(served, "completions", **changes)
    assert (error["status"], error["param"], error["type"]) == (status, param, "invalid_request_error")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"max_completion_tokens": 2000}, "max_completion_tokens"),
        ({"messages": ...}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
    ],
)
def test_chats_that_cannot_be_meant(served: Served, changes: Any, param: str | None) -> None:
    error = refused(served, "chat/completions", **changes)
    assert error["status"] == 400 and (param is None or error["param"] == param)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[1]", 400),
        (b"null", 400),
        (b'{"model": "\xff\xfe", "prompt": "x"}', 400),
        (b'{"model": "tiny-bytes", "prompt": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"prompt": "' + b"x" * (3 << 20) + b'"}', 413),
    ],
)
def test_bodies_that_are_no_request(served: Served, client: OpenAI, body: bytes, status: int) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", content=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).choices


def test_a_body_without_a_length_is_bounded_too(served: Served) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", content=(b"x" * 65536 for _ in range(100)), timeout=30)
    assert answer.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v1/completions", 405), ("POST", "/v2/x", 404)])
def test_places_that_are_not_there(served: Served, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, served.url + path)
    assert answer.status_code == status and answer.json()["error"]["message"]
