"""Sequence and store together, against the real store."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from cachestore.deadline import Deadline
from cachestore.engine.generation import FALLBACK, load_prefix, reuse
from cachestore.engine.hf import HfEngine
from cachestore.engine.writer import BlockWriter, store_tail
from cachestore.errors import DeadlineExceeded, InvalidArgument, Mismatch
from cachestore.hashing import chain, tail_key
from cachestore.store.base import Purpose, PutStatus
from cachestore.store.compose import compose
from cachestore.store.local import LocalStore
from cachestore.store.tiered import TieredStore

Open = Callable[..., HfEngine]


@pytest.fixture
def tiered() -> Iterator[TieredStore]:
    with compose({"tiers": [{"name": "cpu", "capacity": "32MiB"}]}) as store:
        yield store
        store.settle()
        store.check()


@pytest.fixture
def store(tiered: TieredStore) -> LocalStore:
    return tiered.namespace("default")


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


@pytest.mark.parametrize("length", [63, 64, 200, 256])
def test_the_second_prefill_is_loaded_and_bit_equal(length: int, open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("llama")
    tokens = prompt(length)
    first = reuse(engine, store, tokens)
    assert first.reused == {} and first.computed == length
    assert [answer.status for answer in first.stored] == [PutStatus.STORED] * (length // 64)
    second = reuse(engine, store, tokens, lease=5.0)
    full = length // 64
    assert second.reused == ({"cpu": full * 64} if full else {})
    assert second.computed == length % 64
    assert torch.equal(second.logits, first.logits)
    assert torch.equal(second.sequence.decode(5), first.sequence.decode(5))
    assert [answer.status for answer in second.stored] == [PutStatus.ALREADY_EXISTS] * full
    if full:
        assert second.lease is not None and second.lease.blocks == full
        store.release(second.lease)


def test_a_longer_prompt_reuses_what_it_shares(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("mistral")
    tokens = prompt(200)
    reuse(engine, store, tokens)
    longer = [*tokens[:150], *prompt(100, seed=1)]
    warm = reuse(engine, store, longer)
    assert warm.reused == {"cpu": 128}
    assert [answer.status for answer in warm.stored] == [PutStatus.STORED]
    assert store.lookup(warm.chain).ready == 3
    assert torch.equal(warm.logits, engine.sequence().prefill(longer))


def test_other_specs_share_nothing(open_engine: Open, store: LocalStore) -> None:
    tokens = prompt(130)
    reuse(open_engine("llama"), store, tokens)
    for other in (open_engine("qwen3"), open_engine("llama", dtype="bfloat16"), open_engine("llama", block_tokens=32)):
        assert reuse(other, store, tokens).reused == {}


def test_a_handoff_carries_the_whole_prompt(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("qwen3")
    tokens = prompt(150)
    made = reuse(engine, store, tokens)
    key = tail_key(engine.spec, made.chain, tokens[128:], b"request")
    assert store_tail(made.sequence, store, key, ttl=30.0)
    whole = made.chain.with_tail(key)
    lease = store.lease(whole, ttl=10.0)
    assert lease.blocks == 3
    receiver = engine.sequence()
    assert load_prefix(receiver, store, whole, purpose=Purpose.HANDOFF, lease=lease) == {"cpu": 150}
    assert torch.equal(receiver.decode(7), made.sequence.decode(7))


def test_blocks_that_vanished_since_are_written_again(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("llama")
    tokens = prompt(130)
    made = reuse(engine, store, tokens)
    store.clear()
    with BlockWriter(made.sequence, store, made.chain) as writer:
        answers, _ = writer.finish()
    assert [answer.status for answer in answers] == [PutStatus.STORED] * 2
    assert reuse(engine, store, tokens).reused == {"cpu": 128}


def test_leaving_without_finishing_stores_nothing(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("llama")
    tokens = prompt(130)
    keys = chain(engine.spec, tokens)
    sequence = engine.sequence()
    with BlockWriter(sequence, store, keys) as writer:
        sequence.prefill(tokens, on_blocks=writer.on_blocks)
    assert store.lookup(keys).ready == 0 and store.lookup(keys).writing == 0


def test_a_store_that_refuses_costs_only_computation(open_engine: Open) -> None:
    engine = open_engine("llama")
    tokens = prompt(130)
    with compose({"tiers": [{"name": "cpu", "capacity": "8KiB"}]}) as small:
        made = reuse(engine, small.namespace("default"), tokens)
    assert made.stored == [] and made.computed == 130
    assert torch.equal(made.logits, engine.sequence().prefill(tokens))


def test_errors_while_reading_and_writing_are_fallbacks(
    open_engine: Open, tiered: TieredStore, store: LocalStore
) -> None:
    engine = open_engine("llama")
    tokens = prompt(130)
    keys = chain(engine.spec, tokens)
    wanted = engine.sequence().prefill(tokens)
    reuse(engine, store, tokens)
    lease = store.lease(keys)
    store.release(lease)
    sequence = engine.sequence()
    assert load_prefix(sequence, store, keys, lease=lease) == {FALLBACK: 128}
    assert sequence.position == 0
    store.clear()
    with BlockWriter(sequence, store, keys, timeout=1e-9) as writer:
        tiered.expire()
        assert torch.equal(sequence.prefill(tokens, on_blocks=writer.on_blocks), wanted)
        assert writer.finish(lease=1.0) == ([], None)
    assert writer.error is not None
    assert store.lookup(keys).ready == 0


def test_the_deadline_ends_a_prefill_between_chunks(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("llama")
    with pytest.raises(DeadlineExceeded, match="prefilling"):
        reuse(engine, store, prompt(200), deadline=Deadline(0.0))
    assert store.lookup(chain(engine.spec, prompt(200))).writing == 0


def test_a_chain_that_is_not_the_sequences_is_an_error(open_engine: Open, store: LocalStore) -> None:
    engine = open_engine("llama")
    tokens = prompt(64)
    with pytest.raises(Mismatch, match="another spec"):
        load_prefix(engine.sequence(), store, chain(open_engine("qwen3").spec, tokens))
    used = engine.sequence()
    used.prefill(tokens)
    with pytest.raises(InvalidArgument, match="is at 64"):
        load_prefix(used, store, chain(engine.spec, tokens))
