"""The official client against a gateway process, real workers and a real store."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from cachestore.metrics import total
from decode_worker.client import DecodeClient
from tests.e2e.cluster import BLOCK
from tests.gateway.conftest import MODEL, Served, figure

BEGINNING = "Once upon a time there was a store of caches, "


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "cachestore"


@pytest.mark.parametrize("prompt", [BEGINNING, list(BEGINNING.encode())])
def test_a_stream_says_what_the_whole_says(client: OpenAI, prompt: Any) -> None:
    asked: dict[str, Any] = dict(model=MODEL, prompt=prompt, max_tokens=24, temperature=0)
    if not isinstance(prompt, str):
        # of the test's model tokens are bytes, in the order of its alphabet
        asked["prompt"] = [token % 256 for token in prompt]
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == whole.choices[0].finish_reason == "length"
    assert all(chunk.id == chunks[0].id and chunk.usage is None for chunk in chunks)
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(prompt), 24)


def test_a_chat_goes_on_from_what_is_stored(client: OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "You are a store of caches. " * 3},
        {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "are you?"}]},
    ]
    first = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, temperature=0)
    assert first.choices[0].message.role == "assistant" and first.choices[0].finish_reason == "length"
    assert first.usage is not None and first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And who else?"},
    ]
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, max_completion_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].usage.prompt_tokens_details is not None
    cached = chunks[-1].usage.prompt_tokens_details.cached_tokens
    # what was made of the first prompt is stored, whole blocks of it
    assert cached is not None and first.usage.prompt_tokens - 16 <= cached <= chunks[-1].usage.prompt_tokens


def test_choices_and_lists_of_prompts(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=[BEGINNING, BEGINNING + "b"], n=2, max_tokens=6, temperature=1, seed=7
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None and answer.usage.prompt_tokens == 2 * len(BEGINNING) + 1
    assert answer.usage.completion_tokens == 24
    texts = [choice.text for choice in answer.choices]
    assert texts[0] != texts[1]
    alone = client.completions.create(model=MODEL, prompt=BEGINNING, max_tokens=6, temperature=1, seed=8)
    assert alone.choices[0].text == texts[1], "choice i has the seed s + i"
    streamed = ["", ""]
    for chunk in client.completions.create(
        model=MODEL, prompt=BEGINNING, n=2, max_tokens=6, temperature=1, seed=7, stream=True
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == texts[:2]


def test_a_stop_string_cuts_exactly(client: OpenAI) -> None:
    asked: dict[str, Any] = dict(model=MODEL, prompt=BEGINNING, temperature=0)
    text = client.completions.create(**asked, max_tokens=40).choices[0].text
    stop = next(text[at : at + 3] for at in range(8, len(text) - 3) if "�" not in text[at : at + 3])
    expected = text[: text.index(stop)]
    answer = client.completions.create(**asked, max_tokens=40, stop=[stop, "never said"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    chunks = list(client.completions.create(**asked, max_tokens=40, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_what_a_stop_string_ended_is_stored_and_what_needs_no_cache_is_not(
    served: Served, client: OpenAI, wait_until: Callable[..., None]
) -> None:
    """The worker knows of no strings, and is told."""

    def stored() -> int:
        return total(served.store.stats(), "put_stored")

    def ended_well() -> int:
        with DecodeClient(served.worker_children[1].address) as worker:
            return total(worker.stats(), "requests_done", finish="stop")

    asked: dict[str, Any] = dict(model=MODEL, prompt="A tale that ends early: ", temperature=0)
    served.at_rest()
    before = stored()
    alone = client.completions.create(**asked, max_tokens=200, extra_body={"cache": False})
    text = alone.choices[0].text
    stop = next(text[at : at + 3] for at in range(40, 190) if "\ufffd" not in text[at : at + 3])
    assert alone.usage is not None and alone.usage.prompt_tokens_details is not None
    assert alone.usage.prompt_tokens_details.cached_tokens == 0 and stored() == before
    well = ended_well()
    cut = client.completions.create(**asked, max_tokens=900, stop=stop)
    assert ended_well() == well + 1, "and not given up"
    assert cut.choices[0].finish_reason == "stop" and cut.usage is not None
    assert cut.choices[0].text == text[: text.index(stop)]
    # the last token of all has no KV
    full = (cut.usage.prompt_tokens + cut.usage.completion_tokens - 1) // BLOCK
    wait_until(lambda: stored() - before >= full)


def test_logprobs_of_completions(client: OpenAI) -> None:
    asked: dict[str, Any] = dict(model=MODEL, prompt=BEGINNING, max_tokens=6, temperature=0, logprobs=3)
    choice = client.completions.create(**asked).choices[0]
    told = choice.logprobs
    assert told is not None and told.tokens and told.token_logprobs and told.top_logprobs and told.text_offset
    assert "".join(told.tokens) == choice.text and told.text_offset[:2] == [0, len(told.tokens[0])]
    for token, chance, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        # bytes that are no character read alike
        assert chance is not None and chance <= 0 and 1 <= len(top) <= 3
        assert max(top.values()) == top[token] == chance, "greedy takes the likeliest"
    chunks = [chunk.choices[0].logprobs for chunk in client.completions.create(**asked, stream=True)]
    streamed = [token for each in chunks if each is not None for token in each.tokens or ()]
    assert streamed == told.tokens


def test_logprobs_of_chats(client: OpenAI) -> None:
    asked: dict[str, Any] = dict(
        model=MODEL, messages=[{"role": "user", "content": "say"}], max_tokens=5, seed=3, logprobs=True, n=2
    )
    answer = client.chat.completions.create(**asked, top_logprobs=2, temperature=0.7)
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        for each in choice.logprobs.content:
            assert each.logprob <= 0 and len(each.top_logprobs) == 2
            assert each.top_logprobs[0].logprob >= each.top_logprobs[1].logprob >= each.logprob or each.token in (
                top.token for top in each.top_logprobs
            )
    alone = client.chat.completions.create(**asked, temperature=0.7)
    assert [choice.message.content for choice in alone.choices] == [choice.message.content for choice in answer.choices]
    assert alone.choices[0].logprobs is not None and alone.choices[0].logprobs.content is not None
    assert alone.choices[0].logprobs.content[0].top_logprobs == []


def test_the_same_seed_says_the_same(client: OpenAI) -> None:
    def said(**more: Any) -> str:
        how: dict[str, Any] = {"temperature": 1.3, **more}
        answer = client.completions.create(model=MODEL, prompt=BEGINNING, max_tokens=16, **how)
        text: str = answer.choices[0].text
        return text

    assert said(seed=5) == said(seed=5) != said(seed=6)
    assert said(seed=5, top_p=0.9) == said(seed=5, top_p=0.9)
    # as good as nothing is nothing, and hurts nobody
    assert said(temperature=1e-40) == said(top_p=1e-46) == said(temperature=0)
    assert said() != said(), "without one each has another"


def test_errors_are_those_of_the_official_client(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="another", prompt="x")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=MODEL, prompt="x" * 5000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        tool: Any = {"type": "function", "function": {"name": "f"}}
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], tools=[tool])


def test_harmless_fields_are_taken(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": "y", "name": "bo"}],
        max_tokens=2, user="u", metadata={"a": "b"}, store=False, frequency_penalty=0, presence_penalty=0.0, n=1,
        response_format={"type": "text"}, seed=-5, top_p=0,
    )  # fmt: skip
    assert answer.choices


def test_whoever_leaves_ends_the_generation(served: Served, wait_until: Callable[..., None]) -> None:
    def under_way() -> float:
        return figure(served, "requests_under_way")

    for stream in (True, False):
        left = figure(served, "requests_left_total")
        body = {"model": MODEL, "prompt": "x" * 40, "max_tokens": 900, "temperature": 0, "stream": stream}
        with httpx.Client(timeout=httpx.Timeout(30, read=30 if stream else 0.2)) as one:
            try:
                with one.stream("POST", f"{served.url}/v1/completions", json=body) as answer:
                    next(answer.iter_bytes())
            except httpx.ReadTimeout:
                assert not stream
        wait_until(lambda left=left: figure(served, "requests_left_total") == left + 1)
        wait_until(lambda: not under_way())
        wait_until(lambda: not any(member.queue for member in served.store.members("decode")[1]))


def test_the_sums_hold(served: Served) -> None:
    ends = ("requests_done_total", "requests_failed_total", "requests_left_total", "requests_under_way")
    assert figure(served, "requests_total") == sum(figure(served, name) for name in ends) > 0
    assert json.loads(httpx.get(f"{served.url}/health").text) == {"status": "ok", "requests": 0}
