"""Engines whose recipe rounds: whichever way a block comes about, it holds the same, in pages and in the store."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from cachestore.block import BlockSpec, Buffer, Slot
from cachestore.codecs.base import RAW
from cachestore.codecs.lossy import codec_for, settled
from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchProgress, BatchToken
from cachestore.engine.first_token import FirstToken
from cachestore.engine.model import model_spec
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.paged_sequence import PagedSequence
from cachestore.engine.rounding import Rounding
from cachestore.engine.runner import Runner
from cachestore.engine.settings import EngineSettings
from cachestore.engine.store_jobs import MemoryPut
from cachestore.errors import ConfigError, InvalidArgument
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.store.base import PutStatus, Store
from cachestore.store.tiered import TieredStore
from cachestore_kernels.method import Method
from tests.engine.batches import SIZE, Directory, ended, figure, opened, prompt, request, serving
from tests.kernels.conftest import interpreting

RECIPES = ["quantisation=int8,group=32", "quantisation=int4,group=32", "quantisation=fp8,format=e4m3,group=32"]
NEW = 20


@pytest.fixture(
    scope="module", params=[RECIPES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in RECIPES[1:])]
)
def rounded(request: pytest.FixtureRequest, model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"), request.param)
    yield model
    model.close()


@pytest.fixture
def store(tiered: TieredStore) -> Store:
    return tiered.namespace("default")


def computed(runner: Runner, tokens: list[int], *steps: int) -> PagedSequence:
    sequence = runner.start(tokens, reuse=False)
    for count in steps:
        runner.step([(sequence, count)])
    return sequence


def held(memory: PageMemory, page: int) -> Buffer:
    return memory.planes(page, 0, len(memory.spec.planes())).copy()


def read(store: Store, keys: Chain) -> list[Buffer]:
    with store.read(keys) as reading:
        return [np.concatenate(loaded.block.data) for loaded in reading]


def values(data: Buffer) -> np.ndarray:
    return data.view(np.float32)


def test_a_page_holds_what_readers_of_its_block_get(rounded: PagedModel, model: PagedModel, store: Store) -> None:
    runner, exact, tokens = Runner(rounded, 8), Runner(model, 8), prompt(40)
    sequence = computed(runner, tokens, 16, 16, 8)
    assert list(sequence.coded) == [0, 1] and {each.codec for each in sequence.coded[1]} != {RAW}
    put = MemoryPut(
        store, runner.memory, sequence.chain(), 0, sequence.pages[:2], Deadline.after(20.0), sequence.coded
    ).run()
    assert put == [PutStatus.STORED] * 2
    pages = [held(runner.memory, page) for page in sequence.pages[:2]]
    assert all(map(np.array_equal, read(store, sequence.chain()), pages))
    # of the first block nothing was rounded before it was computed
    plain = held(exact.memory, computed(exact, tokens, 16).pages[0])
    codec, ends = codec_for(rounded.spec), np.cumsum([0, *(plane.raw_bytes for plane in rounded.spec.planes())])
    assert codec is not None
    planes = zip(pairwise(ends), rounded.spec.planes(), strict=True)
    wanted = [settled(codec, plain[start:end].copy(), plane) for (start, end), plane in planes]
    assert np.array_equal(pages[0], np.concatenate(wanted)) and not np.array_equal(pages[0], plain)


def test_steps_end_with_the_block(rounded: PagedModel) -> None:
    runner, tokens = Runner(rounded, 8), prompt(40)
    sequence = runner.start(tokens)
    for wrong in (17, 40):
        with pytest.raises(InvalidArgument, match=r"spec\.recipe"):
            runner.step([(sequence, wrong)])
    runner.step([(sequence, 5)])
    with pytest.raises(InvalidArgument, match=r"spec\.recipe"):
        runner.step([(sequence, 12)])
    runner.release(sequence)
    by_block, by_piece = (computed(runner, tokens, *steps) for steps in ((16, 16, 8), (5, 11, 7, 9, 1, 7)))
    for one, other in zip(by_block.pages[:2], by_piece.pages[:2], strict=True):
        assert one == other  # the block has a page already, which stays
    fresh = Runner(rounded, 8)
    again = computed(fresh, tokens, 5, 11, 7, 9, 1, 7)
    for one, other in zip(by_block.pages[:2], again.pages[:2], strict=True):
        first, second = values(held(runner.memory, one)), values(held(fresh.memory, other))
        # another shape of the batch may take a value over the border of a step
        assert (first == second).mean() > 0.97


def test_a_full_block_is_asked_again_before_it_is_drawn_from(rounded: PagedModel) -> None:
    runner, tokens = Runner(rounded, 8), prompt(32)
    sequence = runner.start(tokens)
    assert runner.step([(sequence, 16)]).sequences == [] == runner.step([(sequence, 16)]).sequences
    cold = runner.step([(sequence, 1)])
    assert cold.sequences == [sequence] and sequence.computed == 32
    warm = runner.start(tokens)
    assert warm.computed == 32 and torch.equal(runner.step([(warm, 1)]).logits, cold.logits)


def handed(prefill: BatchLoop, decode: BatchLoop, tokens: list[int], store: Store) -> list[int]:
    first = FirstToken()
    with prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True)) as handing:
        items = iter(handing)
        begun = next(item for item in items if not isinstance(item, BatchProgress) or item.begun)
        waiting = decode.submit(request(tokens, NEW, store=store, wait=10.0, first=first))
        told = [item for item in (begun, *items) if isinstance(item, BatchToken)]
    first.tell(told[0].id)
    return [item.id for item in waiting if isinstance(item, BatchToken)]


@pytest.mark.parametrize("length", [9, 48, 75])
def test_the_tokens_are_the_same_whichever_way(rounded: PagedModel, store: Store, length: int) -> None:
    tokens, whole = prompt(length, length), length // SIZE * SIZE
    with serving(rounded) as one, serving(rounded) as two, serving(rounded) as three:
        cold, usage = ended(one.submit(request(tokens, NEW)))
        assert usage.computed_tokens == length
        with serving(rounded) as prefill:
            assert handed(prefill, two, tokens, store) == cold
            assert figure(prefill, "put_blocks_failed") == 0
        warm, usage = ended(three.submit(request(tokens, NEW, store=store)))
        assert warm == cold and sum(usage.reused.values()) == whole
        assert set(usage.reused) <= {"cpu", "disk"}
        again, usage = ended(two.submit(request(tokens, NEW, store=store)))
        assert again == cold and usage.reused.get("engine", 0) == whole
        # the next turn of the conversation
        spoken = [*tokens, *cold, 5, 6]
        assert ended(three.submit(request(spoken, 4, store=store)))[0] == ended(one.submit(request(spoken, 4)))[0]


def test_blocks_are_small_in_the_store_and_whole_again_from_pages(
    rounded: PagedModel, tiered: TieredStore, store: Store
) -> None:
    tokens, raw = prompt(64), 4 * PageMemory.page_bytes(rounded.spec)
    with serving(rounded) as loop:
        ended(loop.submit(request(tokens, 1, store=store, settle=True)))
        keys = chain(rounded.spec, tokens)
        before = read(store, keys)
        assert len(before) == 4 and total(store.stats(), "tier_bytes", tier="cpu") < 0.5 * raw
        assert store.delete(keys) == 4
        # the codes are gone: what lies in pages is put as it is
        ended(loop.submit(request(tokens, 1, store=store, settle=True, by_slot=True)))
        assert all(map(np.array_equal, read(store, keys), before))


def test_another_recipe_shares_nothing(rounded: PagedModel, model: PagedModel, store: Store) -> None:
    tokens = prompt(64)
    with serving(rounded) as loop, serving(model) as exact:
        ended(loop.submit(request(tokens, 1, store=store, settle=True)))
        assert store.lookup(chain(rounded.spec, tokens)).ready == 4
        assert store.lookup(chain(model.spec, tokens)).ready == 0
        assert ended(exact.submit(request(tokens, 4, store=store, settle=True)))[1].reused == {}
        assert store.lookup(chain(model.spec, tokens)).ready == 4


@pytest.mark.parametrize("method", ["naive", pytest.param("fused", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_kernels_round_pages_as_the_host_does(recipe: str, method: Method) -> None:
    slots = Slot(2, 32, 32), Slot(2, 32, 24)
    spec = replace(BlockSpec("m", "r", "float16", slots, 2, block_tokens=40), recipe=recipe)
    found = []
    for kernels in (None, method):
        memory = PageMemory(spec, 4, torch.device("cpu"))
        memory.kernels = kernels
        random = np.random.default_rng(3)
        for page in range(4):
            halves = random.standard_normal(memory.page_bytes(spec) // 2).astype(np.float16)
            memory.buffer(page)[:] = halves.view(np.uint8)
        before = held(memory, 1)
        rounding = Rounding.of(spec, memory)
        assert rounding is not None
        with interpreting():
            coded = rounding.settle([2, 0, 3])
        assert np.array_equal(held(memory, 1), before)
        found.append(([held(memory, page) for page in range(4)], coded))
    (host, host_codes), (device, device_codes) = found
    assert all(map(np.array_equal, host, device))
    for one, other in zip(host_codes, device_codes, strict=True):
        assert all(np.array_equal(a.stored, b.stored) and a[2:] == b[2:] for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("recipe", ["int8", "quantisation=int9", "quantisation=int8,group=7"])
def test_a_recipe_that_there_is_not_is_refused_by_its_field(recipe: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.recipe"):
        EngineSettings("m", recipe=recipe)


def test_a_recipe_has_one_spelling_in_keys(model_dir: Directory) -> None:
    said, meant = " group = 32, quantisation = int8 ", "quantisation=int8,group=32"
    specs = [model_spec(EngineSettings(str(model_dir("llama")), recipe=recipe)) for recipe in (said, meant)]
    assert specs[0] == specs[1] and specs[0].recipe == meant
