"""Whichever way a prompt's KV comes about, the tokens are the same."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import redis
import torch

from cachestore.engine.generation import load_prefix, reuse
from cachestore.engine.hf import HfEngine
from cachestore.engine.sampling import Sampling
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from prefill_worker.prompt import CacheUse

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
        tokens = make_prompt(length, length)
        full = length // 16
        keys = chain(trio.engine.spec, tokens)
        right = trio.expected(tokens, sampling=sampling)

        def ask(tokens: list[int] = tokens, right: list[int] = right, **more: Any) -> Any:
            made, usage = trio.ask(tokens, sampling=sampling, **more)
            assert made == right
            return usage

        cold = ask()
        assert cold.reuse.reused == {} and cold.prefilled_by == "p0" and cold.loaded_tokens == length
        assert ask().reuse.reused == ({"cpu": full * 16} if full else {})
        off = ask(cache=CacheUse.OFF)
        assert off.prefilled_by == "local" and off.reuse.reused == {}
        if full:
            until_in_redis(keys)
            trio.store.clear("cpu")
            assert ask().reuse.reused == {"redis": full * 16}
            trio.store.delete(Chain(keys.fingerprint, keys.keys[1:2]))
            partly = ask().reuse
            assert sum(partly.reused.values()) == min(full, 1) * 16
        salted = ask(salts=[b"tenant"])
        assert salted.reuse.reused == {}
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


@pytest.mark.parametrize("model", ["llama", "qwen3", "mistral"])
def test_logits_through_the_real_store_are_bit_equal(
    model: str, empty: Any, make_prompt: Prompt, model_dir: Callable[[str], Any]
) -> None:
    engine = HfEngine(EngineSettings(str(model_dir(model)), block_tokens=16, chunk_tokens=16))
    engine.open()
    try:
        for length in (16, 33, 96):
            tokens = make_prompt(length, 1000 + length)
            right = engine.sequence()
            logits = right.prefill(tokens)
            cold = reuse(engine, empty.store, tokens)
            warm = engine.sequence()
            keys = chain(engine.spec, tokens)
            assert load_prefix(warm, empty.store, keys) == {"cpu": length // 16 * 16}
            assert torch.equal(cold.logits, logits)
            assert torch.equal(warm.prefill(tokens), logits)
            for token in make_prompt(20, length):
                assert torch.equal(warm.decode(token), right.decode(token))
            for index, key in enumerate(keys.keys):
                pairs = zip(warm.block(index, key).data, right.block(index, key).data, strict=True)
                assert all(np.array_equal(a, b) for a, b in pairs)
    finally:
        engine.close()


def test_corrupt_blocks_in_redis_are_computed_again(
    empty: Any, make_prompt: Prompt, until_in_redis: Callable[[Chain], None], flip_bits: Callable[[], int]
) -> None:
    tokens = make_prompt(64, 77)
    right = empty.expected(tokens)
    assert empty.ask(tokens)[0] == right
    keys = chain(empty.engine.spec, tokens)
    before = total(empty.store.stats(), "corruptions")
    until_in_redis(keys)
    empty.store.clear("cpu")
    assert flip_bits() >= 4
    made, usage = empty.ask(tokens)
    assert made == right and usage.reuse.reused == {}
    assert total(empty.store.stats(), "corruptions") > before
    made, usage = empty.ask(tokens)
    assert made == right


def test_the_next_turn_finds_prompt_and_answer(empty: Any, make_prompt: Prompt) -> None:
    tokens = make_prompt(40, 8)
    made, _ = empty.ask(tokens, 30, sampling=Sampling(temperature=1.0, seed=3))
    turn = [*tokens, *made, *make_prompt(7, 9)]
    again, usage = empty.ask(turn)
    # the last token generated was never computed, the others fill whole blocks
    assert usage.reuse.reused == {"cpu": (len(tokens) + len(made) - 1) // 16 * 16}
    assert again == empty.expected(turn)


def test_prompts_with_one_prefix_share_its_blocks(empty: Any, make_prompt: Prompt) -> None:
    shared = make_prompt(48, 21)
    for seed, reused in ((22, {}), (23, {"cpu": 48}), (24, {"cpu": 48})):
        tokens = [*shared, *make_prompt(20, seed)]
        made, usage = empty.ask(tokens)
        assert made == empty.expected(tokens)
        assert usage.reuse.reused == reused and usage.reuse.computed == 68 - sum(reused.values())
