"""The serving loop against transformers' own `generate` on each request alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest, BatchToken, BatchUsage
from cachestore.engine.drawing import Draw, draw
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.engine.stopping import Finish, Stop
from cachestore.errors import (
    InternalError,
)
from cachestore.metrics import total
from cachestore.store.tiered import TieredStore
from tests.engine.batches import (
    NEW,
    SIZE,
    Directory,
    alone,
    ended,
    figure,
    opened,
    prompt,
    reference,
    request,
    serving,
    until,
)

NAMES = ["llama", "qwen3", "mistral", "gemma2", "mixtral"]


@pytest.mark.parametrize("name", NAMES)
def test_any_mixture_gives_the_tokens_of_lone_runs(name: str, model_dir: Directory, tiered: TieredStore) -> None:
    path, store = model_dir(name), tiered.namespace("default")
    model = opened(path)
    prompts = [prompt(length, length) for length in (1, 5, 16, 33, 64, 70, 100, 180)]
    half = [[*prompts[5][:48], *prompt(9, 3)], [*prompts[7][:100], *prompt(70, 4)], prompts[4][:32], prompts[7][:176]]
    wanted = {tuple(tokens): alone(path, tokens) for tokens in prompts + half}

    def ask(loop: BatchLoop, several: list[list[int]]) -> list[BatchUsage]:
        answers = [ended(stream) for stream in [loop.submit(request(tokens, store=store)) for tokens in several]]
        for tokens, (made, _) in zip(several, answers, strict=True):
            assert made == wanted[tuple(tokens)]
        return [usage for _, usage in answers]

    # too few pages for all at once
    with serving(model, pages=40) as loop:
        assert sum(usage.computed_tokens for usage in ask(loop, prompts)) == sum(map(len, prompts))
        warm = ask(loop, prompts + half)
        assert {tier for usage in warm for tier in usage.reused} >= {"engine"}
        for usage in warm:
            assert usage.computed_tokens < SIZE or usage.prompt_tokens in (57, 170)
        until(lambda: total(tiered.namespace("default").stats(), "put_open") == 0)
    # pages of another engine: all comes from the store
    with serving(model, pages=40) as loop:
        warm = ask(loop, half + prompts)
        assert not {tier for usage in warm for tier in usage.reused} - {"engine", "cpu", "disk"}
        assert sum(usage.computed_tokens for usage in warm) == sum(len(tokens) % SIZE for tokens in half + prompts)
    model.close()


@pytest.mark.parametrize("use_store", [True, False])
def test_a_victim_comes_back_by_its_prefix(
    use_store: bool, model: PagedModel, model_dir: Directory, tiered: TieredStore
) -> None:
    store = tiered.namespace("default") if use_store else None
    # predicted to be short, so that too many start
    scheduling = {"name": "fcfs", "predictor": {"name": "exact"}}
    with serving(model, pages=14, scheduling=scheduling) as loop:
        prompts = [prompt(40, seed) for seed in range(4)]
        streams = [loop.submit(request(tokens, 80, store=store, expected=2)) for tokens in prompts]
        answers = [ended(stream) for stream in streams]
        assert [made for made, _ in answers] == [alone(model_dir("llama"), tokens, 80) for tokens in prompts]
        assert sum(usage.preempted for _, usage in answers) == figure(loop, "preempted") > 0
        assert figure(loop, "predicted_short") == 4
        restored, again = figure(loop, "restored_tokens"), figure(loop, "recomputed_tokens")
        if use_store:
            # of each victim, what did not fill a block yet, and perhaps blocks whose put was still under way
            assert restored > 2 * again
        else:
            assert again > 0 and figure(loop, "restored_tokens", tier="cpu") == 0


def test_the_same_seed_gives_the_same_tokens_in_any_batch(
    model: PagedModel, model_dir: Directory, tiered: TieredStore
) -> None:
    store = tiered.namespace("default")
    ways = [Sampling(0.8), Sampling(1.5, top_k=5), Sampling(0.8, top_p=0.95), Sampling(2.0, min_p=0.1)]
    ways += [Sampling(1.2, top_k=20, top_p=0.9, min_p=0.02), Sampling()]
    # three choices of each of three prompts, in all these ways
    asked = [(prompt(30 + n % 3, n % 3), replace(how, seed=n), n // 3 % 3) for n, how in enumerate(ways * 3)]
    several: list[list[list[BatchToken]]] = []
    for most in (1, 3, 18):
        with serving(model, max_batch=most, chunk_tokens=16 * most) as loop:
            streams = [
                loop.submit(request(tokens, 20, sampling=how, choice=choice, store=store, logprobs=2))
                for tokens, how, choice in asked
            ]
            several.append([[item for item in stream if isinstance(item, BatchToken)] for stream in streams])
    for run in several:
        for (tokens, how, choice), made in zip(asked, run, strict=True):
            ids = [token.id for token in made]
            with torch.no_grad():
                logits = reference(model_dir("llama"))(torch.tensor([tokens + ids[:-1]])).logits[0, len(tokens) - 1 :]
            # every draw is that of a lone run's logits at its position
            draws = [Draw(how, len(tokens) + at, choice, 2) for at in range(20)]
            for token, drawn in zip(made, draw(logits, draws), strict=True):
                assert token.id == drawn.token
                assert [each for each, _ in token.top] == [each for each, _ in drawn.top]
                assert (token.logprob, *(chance for _, chance in token.top)) == pytest.approx(
                    (drawn.logprob, *(chance for _, chance in drawn.top)), abs=1e-4
                )


def test_a_prompt_asked_many_times_at_once_is_computed_once(model: PagedModel) -> None:
    with serving(model, chunk_tokens=1000) as loop:
        how = Sampling(1.0, seed=3)
        streams = [loop.submit(request(prompt(160), sampling=how, choice=choice)) for choice in range(5)]
        answers = [ended(stream) for stream in streams]
        assert len({tuple(made) for made, _ in answers}) == 5
        assert figure(loop, "computed_tokens") == 160
        assert figure(loop, "reused_tokens", tier="engine") == 4 * 160


def test_tokens_come_with_text_and_logprobs(model: PagedModel, model_dir: Directory) -> None:
    wanted = alone(model_dir("llama"), prompt(20), 8)

    def decode(tokens: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)

    text = decode(wanted)
    with serving(model) as loop:
        *tokens, usage = loop.submit(request(prompt(20), 8, decode=decode, logprobs=3))
        assert "".join(token.text for token in tokens if isinstance(token, BatchToken)) == text
        for token in tokens:
            assert isinstance(token, BatchToken) and token.top[0] == (token.id, token.logprob) and len(token.top) == 3
        cut = text.index(text[4:6])
        stop = Stop(8, strings=(text[4:6],))
        *tokens, usage = loop.submit(BatchRequest(prompt(20), stop, Deadline.after(30.0), decode=decode))
        assert "".join(token.text for token in tokens if isinstance(token, BatchToken)) == text[:cut]
        assert isinstance(usage, BatchUsage) and usage.finish is Finish.STOP
        stop = Stop(8, tokens=frozenset(wanted[2:3]))
        made, usage = ended(loop.submit(BatchRequest(prompt(20), stop, Deadline.after(30.0))))
        assert made == wanted[: wanted.index(wanted[2]) + 1] and usage.finish is Finish.STOP


def test_text_that_cannot_be_made_ends_one_request(model: PagedModel) -> None:
    def decode(tokens: Sequence[int]) -> str:
        raise ValueError("no such token")

    with serving(model) as loop:
        bad, good = loop.submit(request(prompt(20), decode=decode)), loop.submit(request(prompt(20)))
        with pytest.raises(InternalError, match="making text"):
            list(bad)
        assert len(ended(good)[0]) == NEW
