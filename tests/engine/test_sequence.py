"""Cold equals warm, and both equal plain transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.block import Block, Half
from cachestore.engine.hf import HfEngine
from cachestore.engine.sequence import Sequence
from cachestore.errors import InvalidArgument, Mismatch, TooLarge
from cachestore.hashing import chain, tail_key

Open = Callable[..., HfEngine]
MODELS = "llama qwen3 mistral gemma2 gemma3 gemma3n gemma4 llama4 gpt2 mixtral phi3".split()


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


def greedy(sequence: Sequence, logits: torch.Tensor, count: int) -> list[int]:
    tokens = [int(logits.argmax())]
    while len(tokens) < count:
        tokens.append(int(sequence.decode(tokens[-1]).argmax()))
    return tokens


def cold(engine: HfEngine, tokens: list[int]) -> tuple[Sequence, torch.Tensor, list[Block]]:
    """A sequence without reuse, its logits, and its full blocks as they were completed."""
    sequence = engine.sequence()
    keys = chain(engine.spec, tokens).keys
    blocks: list[Block] = []

    def take(first: int, end: int) -> None:
        blocks.extend(sequence.block(index, keys[index]) for index in range(first, end))

    logits = sequence.prefill(tokens, on_blocks=take)
    return sequence, logits, blocks


def reference(directory: Path, tokens: list[int], count: int) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    made = model.generate(
        torch.tensor([tokens]), do_sample=False, max_new_tokens=count, min_new_tokens=count, eos_token_id=None,
        attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
    )  # fmt: skip
    return [int(token) for token in made[0, len(tokens) :]]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_plain_generate(name: str, open_engine: Open, model_dir: Callable[[str], Path]) -> None:
    engine = open_engine(name)
    for length in (5, 128, 150):
        tokens = prompt(length)
        sequence, logits, _ = cold(engine, tokens)
        assert greedy(sequence, logits, 20) == reference(model_dir(name), tokens, 20)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 200])
def test_warm_logits_equal_cold_bit_for_bit(name: str, length: int, open_engine: Open) -> None:
    engine = open_engine(name)
    tokens = prompt(length)
    sequence, logits, blocks = cold(engine, tokens)
    assert len(blocks) == length // 64
    after = greedy(sequence, logits, 8)
    for count in range(len(blocks) + 1):
        warm = engine.sequence()
        for block in blocks[:count]:
            warm.load(block)
        assert warm.position == 64 * count
        again = warm.prefill(tokens)
        assert torch.equal(again, logits)
        assert greedy(warm, again, 8) == after
        for index, block in enumerate(blocks):
            same = warm.block(index, block.key)
            assert all(np.array_equal(a, b) for a, b in zip(same.data, block.data, strict=True))


@pytest.mark.parametrize("name", ["qwen3", "gemma2", "gemma3n", "gemma4", "llama4", "mixtral", "gpt2"])
def test_every_later_logit_is_bit_equal_too(name: str, open_engine: Open) -> None:
    engine = open_engine(name)
    tokens = prompt(192)
    sequence, logits, blocks = cold(engine, tokens)
    warm = engine.sequence()
    for block in blocks:
        warm.load(block)
    assert torch.equal(warm.prefill(tokens), logits)
    for token in prompt(20, seed=1):
        assert torch.equal(warm.decode(token), sequence.decode(token))


def test_chunks_of_several_blocks(open_engine: Open) -> None:
    engine = open_engine("llama", chunk_tokens=128)
    tokens = prompt(300)
    _, logits, blocks = cold(engine, tokens)
    for count in range(5):
        warm = engine.sequence()
        for block in blocks[:count]:
            warm.load(block)
        again = warm.prefill(tokens)
        if count % 2 == 0:
            assert torch.equal(again, logits)
        assert int(again.argmax()) == int(logits.argmax())
        torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 64, 150])
def test_a_handoff_with_a_tail_needs_no_computation(length: int, open_engine: Open) -> None:
    engine = open_engine("mistral")
    tokens = prompt(length)
    sequence, logits, blocks = cold(engine, tokens)
    if length % 64:
        full = chain(engine.spec, tokens)
        blocks = [*blocks, sequence.tail(tail_key(engine.spec, full, tokens[len(full) * 64 :], b"request"))]
        assert blocks[-1].short and blocks[-1].token_count == length % 64
    receiver = engine.sequence()
    for block in blocks:
        receiver.load(block)
    assert receiver.position == length
    first = int(logits.argmax())
    assert torch.equal(receiver.decode(first), sequence.decode(first))
    if length % 64 and length < 64:
        with pytest.raises(InvalidArgument, match="not full"):
            receiver.load(blocks[0])


def test_a_loaded_tail_can_be_queried_again(open_engine: Open) -> None:
    engine = open_engine("llama")
    tokens = prompt(40)
    sequence, logits, _ = cold(engine, tokens)
    warm = engine.sequence()
    warm.load(sequence.tail(bytes(32)))
    torch.testing.assert_close(warm.prefill(tokens), logits, atol=1e-5, rtol=1e-5)


def test_generated_tokens_fill_blocks_of_the_next_turn(open_engine: Open) -> None:
    engine = open_engine("llama")
    tokens = prompt(100)
    sequence, logits, _ = cold(engine, tokens)
    tokens += greedy(sequence, logits, 30)[:-1]
    keys = chain(engine.spec, tokens).keys
    blocks = [sequence.block(index, keys[index]) for index in range(2)]
    warm = engine.sequence()
    for block in blocks:
        warm.load(block)
    more = [*tokens, *prompt(20, seed=3)]
    torch.testing.assert_close(warm.prefill(more), engine.sequence().prefill(more), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sequence.prefill(more), warm.prefill(more), atol=1e-4, rtol=1e-4)
    assert sequence.position == warm.position == len(more)


def test_bfloat16(open_engine: Open) -> None:
    engine = open_engine("llama", dtype="bfloat16")
    tokens = prompt(130)
    _, logits, blocks = cold(engine, tokens)
    assert logits.dtype == torch.float32
    assert blocks[0].planes[0].item_bytes == 2
    warm = engine.sequence()
    for block in blocks:
        for data in block.data:
            data.flags.writeable = False
        warm.load(block)
    assert torch.equal(warm.prefill(tokens), logits)


def test_planes_are_the_canonical_bytes(open_engine: Open) -> None:
    engine = open_engine("llama")
    tokens = prompt(70)
    _, _, blocks = cold(engine, tokens)
    assert engine.spec.head_groups == 2
    assert len(blocks[0].planes) == 3 * 2 * 2
    model: Any = AutoModelForCausalLM.from_pretrained(engine.settings.model, dtype=torch.float32).eval()
    with torch.no_grad():
        layers = model(input_ids=torch.tensor([tokens[:64]]), use_cache=True).past_key_values.layers
    for plane, data in zip(blocks[0].planes, blocks[0].data, strict=True):
        layer = layers[plane.slot]
        wanted = (layer.keys if plane.half is Half.K else layer.values)[0, plane.group : plane.group + 1, :64]
        assert np.array_equal(data.view(np.float32), wanted.contiguous().numpy().reshape(-1))


def test_giving_up_between_chunks(open_engine: Open) -> None:
    engine = open_engine("llama")
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError

    sequence = engine.sequence()
    tokens = prompt(200)
    with pytest.raises(TimeoutError):
        sequence.prefill(tokens, check=check)
    assert sequence.position == 128
    assert torch.equal(sequence.prefill(tokens), engine.sequence().prefill(tokens))


def test_refusals(open_engine: Open) -> None:
    engine = open_engine("llama")
    sequence = engine.sequence()
    with pytest.raises(InvalidArgument, match="empty"):
        sequence.prefill([])
    with pytest.raises(TooLarge, match="1024"):
        sequence.prefill([5] * 1025)
    with pytest.raises(InvalidArgument, match=r"0 \.\. 96"):
        sequence.prefill([5, 97])
    with pytest.raises(InvalidArgument, match=r"0 \.\. 96"):
        sequence.decode(-1)
    with pytest.raises(InvalidArgument, match="not complete"):
        sequence.block(0, bytes(32))
    _, _, blocks = cold(engine, prompt(64))
    part = Block(blocks[0].key, 64, blocks[0].planes[:2], blocks[0].data[:2])
    with pytest.raises(Mismatch):
        sequence.load(part)
    assert sequence.position == 0
    sequence.load(blocks[0])
    with pytest.raises(InvalidArgument, match="no tail"):
        sequence.tail(bytes(32))
    with pytest.raises(InvalidArgument, match="64 are loaded"):
        sequence.prefill([5])
