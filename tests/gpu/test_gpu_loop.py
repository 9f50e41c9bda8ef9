"""A worker's loop on a CUDA device: the tokens of one on the CPU, and blocks that either goes on from."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.codecs import create
from cachestore.engine import device_moves
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchProgress, BatchToken
from cachestore.engine.device_moves import DeviceMoves
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.settings import EngineSettings
from cachestore.eviction.lru import Lru
from cachestore.hashing import chain
from cachestore.store.base import Store
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from tests.engine.batches import SIZE, alone, ended, figure, prompt, request, serving
from tests.engine.models import CONFIGS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # whoever comes first has all kernels compiled
    pytest.mark.timeout(240),
]

NEW = 24
LENGTHS = (9, 48, 101)
DEVICES = ("cpu", "cuda")
RECIPES = ["", "quantisation=int8,group=32", "quantisation=fp8,format=e4m3,group=32"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("llama")
    AutoModelForCausalLM.from_config(CONFIGS["llama"]()).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _small_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few pages at a time."""
    monkeypatch.setattr(device_moves, "STAGED", 1 << 16)


@pytest.fixture
def store() -> Iterator[Store]:
    with TieredStore(Cpu(64 << 20).start(), (), create("raw"), Lru()) as tiered:
        yield tiered.namespace("default")


@contextmanager
def on(device: str, directory: Path, recipe: str = "", **settings: Any) -> Iterator[BatchLoop]:
    model = PagedModel(EngineSettings(str(directory), device=device, block_tokens=SIZE, recipe=recipe))
    model.open()
    with serving(model, **settings) as loop:
        assert isinstance(loop._runner.memory.moves, DeviceMoves) == (device == "cuda")
        yield loop
        assert figure(loop, "put_blocks_failed") == figure(loop, "fetches_failed") == 0
    model.close()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("saver", DEVICES)
def test_what_one_device_saves_the_other_goes_on_from(
    saver: str, length: int, recipe: str, directory: Path, store: Store
) -> None:
    tokens, whole = prompt(length, length), length // SIZE * SIZE
    with on(saver, directory, recipe) as loop:
        cold, usage = ended(loop.submit(request(tokens, NEW, store=store, settle=True)))
        assert usage.computed_tokens == length
    if not recipe:
        assert cold == alone(directory, tokens, NEW)
    for device in DEVICES:
        with on(device, directory, recipe) as loop:
            warm, usage = ended(loop.submit(request(tokens, NEW, store=store)))
            assert warm == cold and sum(usage.reused.values()) == whole


@pytest.mark.parametrize(("first", "second"), [("cuda", "cuda"), ("cpu", "cuda"), ("cuda", "cpu")])
def test_a_handoff_slot_by_slot(first: str, second: str, directory: Path, store: Store) -> None:
    tokens, told = prompt(101, 2), FirstToken()
    with on(first, directory) as prefill, on(second, directory) as decode:
        with prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True)) as handing:
            items = iter(handing)
            begun = next(item for item in items if not isinstance(item, BatchProgress) or item.begun)
            waiting = decode.submit(request(tokens, NEW, store=store, wait=20.0, first=told))
            drawn = [item for item in (begun, *items) if isinstance(item, BatchToken)]
        told.tell(drawn[0].id)
        made, usage = ended(waiting)
    assert made == alone(directory, tokens, NEW) and sum(usage.reused.values()) == 96


def test_blocks_that_are_put_while_others_are_computed(directory: Path, store: Store) -> None:
    """Pages are scarce: they change hands while copies of them are on their way."""
    prompts = [prompt(60 + seed, seed) for seed in range(12)]
    for _ in range(3):
        with on("cuda", directory, pages=24) as loop:
            streams = [loop.submit(request(tokens, NEW, store=store, settle=True)) for tokens in prompts]
            made = [ended(stream)[0] for stream in streams]
        assert made == [alone(directory, tokens, NEW) for tokens in prompts]
    keys = [chain(loop._runner.spec, tokens) for tokens in prompts]
    with on("cpu", directory) as loop:
        for tokens, key in zip(prompts, keys, strict=True):
            _, usage = ended(loop.submit(request(tokens, 1, store=store)))
            assert sum(usage.reused.values()) == store.lookup(key).ready * SIZE
