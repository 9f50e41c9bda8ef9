"""Many sequences on pages against transformers' own `generate` on each alone."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.block import Block, Half
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.paged_sequence import PagedSequence
from cachestore.engine.runner import Runner, greedy
from cachestore.engine.settings import EngineSettings
from cachestore.errors import InvalidArgument, Overloaded, TooLarge, UnsupportedModel
from cachestore.store.base import BlockPlan
from cachestore.store.compose import compose

SIZE = 16
NEW = 16

Directory = Callable[[str], Path]


def paged(path: Path, **settings: Any) -> PagedModel:
    model = PagedModel(EngineSettings(str(path), **{"block_tokens": SIZE, **settings}))
    model.open()
    return model


@pytest.fixture(scope="module")
def llama(model_dir: Directory) -> Iterator[PagedModel]:
    model = paged(model_dir("llama"))
    yield model
    model.close()


def alone(path: Path, prompts: list[list[int]], new: int = NEW) -> list[list[int]]:
    """The tokens of a lone run with transformers for each prompt."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    made = []
    for tokens in prompts:
        ids = torch.tensor([tokens])
        # without a mask of its own it would take tokens like the padding's for padding
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        made.append(out[0, len(tokens) :].tolist())
    return made


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


def run(runner: Runner, sequences: list[PagedSequence], new: int = NEW, chunk: int = 24) -> list[list[int]]:
    """Steps all until each has `new` tokens more, in random subsets and chunks."""
    order = random.Random(0)
    goals = {id(sequence): len(sequence.tokens) + new for sequence in sequences}
    live = list(sequences)
    while live:
        chosen = order.sample(live, order.randint(1, len(live)))
        stepped = runner.step([(sequence, min(sequence.pending, order.randint(1, chunk))) for sequence in chosen])
        for sequence, token in zip(stepped.sequences, greedy(stepped.logits), strict=True):
            sequence.append(token)
        live = [sequence for sequence in live if len(sequence.tokens) < goals[id(sequence)]]
    return [sequence.tokens[goals[id(sequence)] - new :] for sequence in sequences]


NAMES = ["llama", "qwen3", "mistral", "gemma2", "gemma3n", "phi", "mixtral"]
ALSO = ["qwen2", "gemma3", "gemma4", "phi3", "qwen2_moe", "llama4", "gpt2", "gpt_oss"]


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in ALSO)])
def test_a_mixed_batch_gives_the_tokens_of_lone_runs(name: str, model_dir: Directory) -> None:
    model = paged(model_dir(name))
    runner = Runner(model, 80)
    prompts = [prompt(length, length) for length in (1, 5, 16, 33, 70, 100)]
    warm = [*prompts[4][:48], *prompt(9, 3)]
    sequences = [runner.start(tokens) for tokens in prompts]
    made = run(runner, sequences)
    # prefixes of what is there now, in whole and in part
    again = [runner.start(prompts[2]), runner.start(warm), runner.start(sequences[5].tokens[:112])]
    assert [sequence.computed for sequence in again] == [16, 48, 112]
    wanted = alone(model_dir(name), [*prompts, prompts[2], warm, sequences[5].tokens[:112]])
    assert made + run(runner, again) == wanted
    for sequence in sequences + again:
        runner.release(sequence)
    assert runner.pool.referenced == 0
    model.close()


def test_layers_that_share_kv_are_stored_once(model_dir: Directory) -> None:
    model = paged(model_dir("gemma3n"))
    assert len(model.spec.slots) == 4
    assert Runner(model, 3).memory.buffer(0).nbytes == 4 * 2 * 2 * SIZE * 16 * 4


def test_forks_part_at_the_page_they_share(llama: PagedModel, model_dir: Directory) -> None:
    runner = Runner(llama, 12)
    first = runner.start(prompt(20))
    runner.step([(first, 20)])
    twin = runner.fork(first)
    first.append(5)
    twin.append(6)
    assert runner.pool.referenced == 2
    runner.step([(first, 1), (twin, 1)])
    assert runner.pool.referenced == 3
    wanted = alone(model_dir("llama"), [[*prompt(20), 5], [*prompt(20), 6]])
    first.append(wanted[0][0])
    twin.append(wanted[1][0])
    assert run(runner, [first, twin], NEW - 1) == [wanted[0][1:], wanted[1][1:]]
    for sequence in (first, twin):
        runner.release(sequence)
        runner.release(sequence)
    assert runner.pool.referenced == 0


def test_a_namespace_sees_its_own_pages_only(llama: PagedModel) -> None:
    runner = Runner(llama, 12)
    one = runner.start(prompt(40), namespace=b"a" * 32)
    runner.step([(one, 40)])
    assert runner.start(prompt(40), namespace=b"b" * 32).computed == 0
    assert runner.start(prompt(40), namespace=b"a" * 32, reuse=False).computed == 0
    assert runner.start(prompt(40), namespace=b"a" * 32, extras={0: [b"salt"]}).computed == 0
    assert runner.start(prompt(40), namespace=b"a" * 32).computed == 32


def test_a_step_that_does_not_fit_changes_nothing(llama: PagedModel) -> None:
    runner = Runner(llama, 4)
    held, other = runner.start(prompt(40)), runner.start(prompt(40, 1))
    runner.step([(held, 40)])
    plan = [(held, 1), (other, 40)]
    held.append(4)
    assert runner.wanted(plan) == 3
    with pytest.raises(Overloaded, match="3 pages"):
        runner.step(plan)
    assert (held.computed, other.computed, runner.pool.free) == (40, 0, 1)
    runner.release(held)
    assert run(runner, [other], 2)


def test_what_another_left_in_a_page_reaches_nobody(llama: PagedModel, model_dir: Directory) -> None:
    runner = Runner(llama, 8)
    poisoned = runner.start(prompt(16))
    for data in runner.reserve(poisoned, 8).into(0, 8):
        data[:] = 255
    runner.accept(poisoned, 0)
    prompts = [prompt(3), prompt(14, 1), prompt(30, 2)]
    assert run(runner, [runner.start(tokens) for tokens in prompts], 8) == alone(model_dir("llama"), prompts, 8)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_with_equal_chunks_a_warm_start_is_equal_bit_for_bit(name: str, model_dir: Directory) -> None:
    model = paged(model_dir(name))
    tokens = prompt(150)
    first = Runner(model, 12)
    cold = first.start(tokens)
    wanted = in_blocks(first, cold)
    for count in range(1, 10):
        second = Runner(model, 12)
        if count % 2:
            # read beside the pages, and brought there
            second.memory.moves = DeviceMoves(second.memory)
        warm = second.start(tokens)
        incoming = second.reserve(warm, count)
        for into, page in zip(incoming.into(0, count), cold.pages, strict=False):
            into[:] = first.memory.buffer(page)
            incoming.came()
        incoming.settle()
        second.accept(warm, count)
        assert torch.equal(in_blocks(second, warm), wanted)
    model.close()


def in_blocks(runner: Runner, sequence: PagedSequence) -> torch.Tensor:
    """The logits behind a sequence whose blocks are computed one at a time."""
    while True:
        stepped = runner.step([(sequence, min(SIZE, sequence.pending))])
        if stepped.sequences:
            return stepped.logits


def test_a_page_holds_the_canonical_bytes(llama: PagedModel, model_dir: Directory) -> None:
    runner, tokens = Runner(llama, 2), prompt(SIZE)
    sequence = runner.start(tokens)
    runner.step([(sequence, SIZE)])
    with torch.no_grad():
        layers = AutoModelForCausalLM.from_pretrained(model_dir("llama"))(torch.tensor([tokens])).past_key_values.layers
    planes = llama.spec.planes()
    assert llama.spec.head_groups == 2 and len(planes) == 3 * 2 * 2
    for number, plane in enumerate(planes):
        wanted = getattr(layers[plane.slot], "keys" if plane.half is Half.K else "values")[0, plane.group]
        held = runner.memory.planes(sequence.pages[0], number, number + 1).view(np.float32)
        assert np.allclose(held, wanted.numpy().reshape(-1), atol=1e-5)


@pytest.mark.parametrize("length", [70, 64])
def test_blocks_go_from_pages_to_a_store_and_back(length: int, llama: PagedModel, model_dir: Directory) -> None:
    tokens = prompt(length)
    first = Runner(llama, 8)
    sequence = first.start(tokens)
    first.step([(sequence, length)])
    keys, planes = sequence.chain(), llama.spec.planes()
    with compose({"tiers": [{"name": "cpu", "capacity": "8MiB"}]}) as tiered:
        store = tiered.namespace("default")
        plans = [BlockPlan(key, SIZE, planes) for key in keys.keys]
        with store.put(keys.fingerprint, plans) as put:
            for index, page in enumerate(sequence.pages[: len(keys)]):
                for plane in range(0, len(planes), 2):
                    put.write(index, plane, first.memory.planes(page, plane, plane + 2))
            put.commit()
        second = Runner(llama, 16)
        back = second.start(tokens)
        into = second.reserve(back, len(keys)).into(0, len(keys))
        with store.read(keys, into=into) as reading:
            blocks: list[Block] = [loaded.block for loaded in reading]
        second.accept(back, len(blocks))
    assert back.computed == length // SIZE * SIZE
    assert run(second, [back]) == alone(model_dir("llama"), [tokens])
    assert second.start(tokens).computed == length // SIZE * SIZE


def test_plans_that_cannot_be_meant(llama: PagedModel) -> None:
    runner = Runner(llama, 80)
    sequence = runner.start(prompt(10))
    for plan in ([], [(sequence, 0)], [(sequence, 11)], [(sequence, 1), (sequence, 1)]):
        with pytest.raises(InvalidArgument, match="plan"):
            runner.step(plan)
    for tokens, words in (([], "empty"), ([97], "0 .. 96"), ([-1], "0 .. 96")):
        with pytest.raises(InvalidArgument, match=words):
            runner.start(tokens)
    with pytest.raises(TooLarge, match="1024"):
        runner.start([1] * 1025)
    full = runner.start(prompt(1024))
    runner.step([(full, 1024)])
    full.append(3)
    with pytest.raises(TooLarge, match="1025 tokens"):
        runner.step([(full, 1)])


def test_half_precision_comes_near(model_dir: Directory) -> None:
    model = paged(model_dir("llama"), dtype="bfloat16")
    runner = Runner(model, 8)
    sequence = runner.start(prompt(40))
    stepped = runner.step([(sequence, 40)])
    with torch.no_grad():
        exact = AutoModelForCausalLM.from_pretrained(model_dir("llama"))(torch.tensor([prompt(40)])).logits[0, -1]
    assert float((stepped.logits[0] - exact).norm() / exact.norm()) < 0.1
    model.close()


def test_a_model_whose_queries_depend_on_the_batch_is_refused(model_dir: Directory, tmp_path: Path) -> None:
    config = AutoModelForCausalLM.from_pretrained(model_dir("llama4"))
    config.config.floor_scale = 64
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=r"layer 3 scales its queries"):
        paged(tmp_path)
