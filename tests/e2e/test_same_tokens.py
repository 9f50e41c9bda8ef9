"""Whichever way a prompt's KV comes about, the tokens are the same."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import redis
import torch

from cachestore.engine.sampling import Sampling
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from prefill_worker.prompt import CacheUse
from prefill_worker.token import Reuse

SAMPLINGS = {
    "greedy": Sampling(),
    "seeded": Sampling(temperature=1.0, top_k=20, seed=5),
    "seeded-all": Sampling(temperature=0.5, top_p=0.75, seed=6),
}
Prompt = Callable[[int, int], list[int]]


@pytest.fixture
def until_in_redis(redis_url: str, wait_until: Callable[..., None]) -> Callable[[Chain], None]:
    """Waits until Redis has every block of a chain."""

    def wait(keys: Chain) -> None:
        with redis.Redis.from_url(redis_url) as client:
            wait_until(lambda: all(list(client.scan_iter(f"cachestore:block:*:{key.hex()}")) for key in keys.keys))

    return wait


@pytest.fixture
def flip_bits(redis_url: str) -> Callable[[], int]:
    """Flips one bit in the payload of every block in Redis; how many blocks there were."""

    def flip() -> int:
        with redis.Redis.from_url(redis_url) as client:
            names = list(client.scan_iter("cachestore:block:*"))
            for name in names:
                at = client.strlen(name) // 2 * 2 - 100
                byte = client.getrange(name, at, at)
                client.setrange(name, at, bytes([byte[0] ^ 4]))
        return len(names)

    return flip


def everything(trio: Any, sampling: Sampling, make_prompt: Prompt, until_in_redis: Callable[[Chain], None]) -> None:
    for length in (5, 32, 75):
        whole = length // 16 * 16
        seeds = count(1000 * length + 100 * [*SAMPLINGS.values()].index(sampling))

        def fresh(length: int = length, seeds: Iterator[int] = seeds) -> list[int]:
            return make_prompt(length, next(seeds))

        def ask(tokens: list[int], **more: Any) -> Any:
            made, usage = trio.ask(tokens, sampling=sampling, **more)
            assert made == trio.expected(tokens, sampling=sampling)
            return usage

        handed = fresh()
        cold = ask(handed)
        assert cold.reuse.reused == {} and cold.loaded_tokens == whole
        assert cold.prefilled_by == ("p0" if whole else "local")
        again = ask(handed)
        assert sum(again.reuse.reused.values()) == whole
        off = ask(handed, cache=CacheUse.OFF)
        assert off.prefilled_by == "local" and off.reuse.reused == {}
        salted = ask(handed, salts=[b"tenant"])
        assert salted.reuse.reused == {}
        if not whole:
            continue
        stored = fresh()
        trio.handed(stored)
        assert ask(stored).reuse.reused == {"cpu": whole}
        in_redis, partly = fresh(), fresh()
        for tokens in (in_redis, partly):
            trio.handed(tokens)
            until_in_redis(chain(trio.engine.spec, tokens))
        keys = chain(trio.engine.spec, partly)
        trio.store.delete(Chain(keys.fingerprint, keys.keys[1:2]))
        trio.store.clear("cpu")
        assert ask(in_redis).reuse.reused == {"redis": whole}
        # what the store lost is put again out of the prefill worker's pages
        assert ask(partly).loaded_tokens == whole
        trio.store.clear()


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_cold_warm_redis_partly_and_off(
    sampling: Sampling, empty: Any, make_prompt: Prompt, until_in_redis: Callable[[Chain], None]
) -> None:
    everything(empty, sampling, make_prompt, until_in_redis)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["qwen3", "mistral"])
def test_other_models(
    model: str, make_trio: Callable[..., Any], make_prompt: Prompt, until_in_redis: Callable[[Chain], None]
) -> None:
    cluster = make_trio(model)
    try:
        cluster.start()
        cluster.store.clear()
        for sampling in SAMPLINGS.values():
            everything(cluster, sampling, make_prompt, until_in_redis)
        cluster.at_rest()
    finally:
        cluster.end()


def test_corrupt_blocks_in_redis_are_computed_again(
    empty: Any, make_prompt: Prompt, until_in_redis: Callable[[Chain], None], flip_bits: Callable[[], int]
) -> None:
    tokens = make_prompt(64, 77)
    empty.handed(tokens)
    keys = chain(empty.engine.spec, tokens)
    before = total(empty.store.stats(), "corruptions")
    until_in_redis(keys)
    empty.store.clear("cpu")
    assert flip_bits() >= 4
    made, usage = empty.ask(tokens)
    assert made == empty.expected(tokens) and usage.reuse.computed == 64
    assert total(empty.store.stats(), "corruptions") > before
    assert empty.ask(tokens)[0] == made


def test_the_next_turn_computes_only_what_is_new(empty: Any, make_prompt: Prompt) -> None:
    tokens, sampling = make_prompt(40, 8), Sampling(temperature=1.0, seed=3)
    made, _ = empty.ask(tokens, 30, sampling=sampling)
    assert len(made) == 30
    # the last token generated was never computed, the others fill whole blocks
    whole = (len(tokens) + len(made) - 1) // 16 * 16
    turn = [*tokens, *made, *make_prompt(7, 9)]
    # also where its pages are not: in the prefill worker it comes from the store
    assert empty.handed(turn)[-2].reuse == Reuse(len(turn) - whole, {"engine": 32, "cpu": whole - 32})
    again, usage = empty.ask(turn)
    assert usage.reuse.reused.get("engine") == whole and usage.reuse.computed == len(turn) % 16
    assert again == empty.expected(turn)


def test_prompts_with_one_prefix_share_its_blocks(empty: Any, make_prompt: Prompt) -> None:
    shared = make_prompt(48, 21)
    for seed, reused in ((22, 0), (23, 48), (24, 48)):
        tokens = [*shared, *make_prompt(20, seed)]
        made, usage = empty.ask(tokens)
        assert made == empty.expected(tokens)
        assert sum(usage.reuse.reused.values()) == reused and usage.reuse.computed == 68 - reused


def test_logprobs_are_those_of_the_model(empty: Any, make_prompt: Prompt) -> None:
    for tokens, cache in ((make_prompt(50, 25), CacheUse.READ_AND_WRITE), (make_prompt(50, 26), CacheUse.OFF)):
        answer = empty.decode.generate(tokens, max_tokens=4, logprobs=3, cache=cache)
        made = list(answer)
        with torch.inference_mode():
            logits = empty.alone(torch.tensor([[*tokens, *made]])).logits[0, len(tokens) - 1 : -1]
        right = logits.log_softmax(-1)
        for row, token in zip(right, answer.tokens, strict=True):
            assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
            values, best = row.topk(3)
            assert [each for each, _ in token.top] == best.tolist()
            assert [chance for _, chance in token.top] == pytest.approx(values.tolist(), abs=1e-4)
        first, *rest = answer.tokens
        assert first.reuse is not None and answer.usage.reuse == first.reuse
        assert all(token.reuse is None for token in rest)


@pytest.mark.parametrize("sampling", [Sampling(1.0, min_p=0.3, seed=4), Sampling(1.0, min_p=1.0, seed=4)])
def test_min_p(sampling: Sampling, empty: Any, make_prompt: Prompt) -> None:
    tokens = make_prompt(40, 27)
    made = empty.ask(tokens, sampling=sampling)[0]
    assert made == empty.expected(tokens, sampling=sampling)
    assert (made == empty.expected(tokens)) == (sampling.min_p == 1.0)
