"""Workers that store less: without loss by a codec of their own, or rounded by the recipe of their engine.

The workers are in this process, in front of a store in another: each process takes six CPU-seconds to import a model
library, and that workers of their own answer is shown elsewhere.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cachestore.block import BlockSpec
from cachestore.engine.model import model_spec
from cachestore.engine.page_memory import PageMemory
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import chain
from cachestore.metrics import total
from decode_worker.client import DecodeClient
from decode_worker.server import DecodeServer
from prefill_worker.client import PrefillClient
from prefill_worker.server import PrefillServer
from prefill_worker.worker_server import WorkerServer
from tests.e2e.cluster import BATCH, BLOCK, ROOT, Children, Trio

NEEDLE = ROOT / "examples" / "needle"
MODEL = NEEDLE / "model"
SETTINGS = {
    "prefill": "",
    "decode": f'local_prefill_tokens = {BLOCK - 1}\nprefill_begin = "20s"\nsilence = "20s"\n',
}
"""A machine that is busy must not make the decode worker prefill."""


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


def asked(name: str) -> list[tuple[list[int], str]]:
    """The prompts about one of the documents that come with the model, and the right answers."""
    text = (NEEDLE / "documents" / f"{name}.txt").read_text(encoding="utf-8")
    questions = json.loads((NEEDLE / "documents" / f"{name}.json").read_text(encoding="utf-8"))
    return [(tokenizer().encode(text + each["question"]), each["answer"]) for each in questions]


def spec(recipe: str) -> BlockSpec:
    return model_spec(EngineSettings(str(MODEL), block_tokens=BLOCK, recipe=recipe))


def worker(
    of: type[PrefillServer] | type[DecodeServer], name: str, trio: Trio, recipe: str, codec: str
) -> WorkerServer:
    """One that stores so, in front of that store."""
    tables = tomllib.loads(
        f'[engine]\nmodel = "{MODEL}"\nblock_tokens = {BLOCK}\nthreads = 1\nrecipe = "{recipe}"\n[batch]\n{BATCH}\n'
        f'[{of.role}_worker]\ncodec = "{codec}"\n{SETTINGS[of.role]}\n'
    )
    return of(tables, store=trio.store_child.address, name=name)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test opened."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def start(tmp_path: Path, stack: ExitStack) -> Callable[[str, str], Trio]:
    """A store, and workers with this recipe and codec."""

    def make(recipe: str, codec: str) -> Trio:
        trio = Trio(Children(tmp_path), MODEL)
        stack.callback(trio.end)
        trio.start_store()
        prefill = stack.enter_context(worker(PrefillServer, "p0", trio, recipe, codec))
        decode = stack.enter_context(worker(DecodeServer, "d0", trio, recipe, codec))
        trio.prefill, trio.decode = PrefillClient(prefill.address), DecodeClient(decode.address)
        trio.prefill.open()
        trio.decode.open()
        trio.known("prefill", 1)
        trio.known("decode", 1)
        return trio

    return make


def answers(trio: Trio, name: str) -> list[str]:
    """What the decode worker answers; all but the first question find the document in the store or in pages."""
    made, shared = [], 0
    for tokens, _ in asked(name):
        answer, usage = trio.ask(tokens, 8)
        made.append(tokenizer().decode(answer, skip_special_tokens=True))
        if shared:
            assert sum(usage.reuse.reused.values()) >= shared
        else:
            assert usage.prefilled_by == "p0" and usage.loaded_tokens == len(tokens) // BLOCK * BLOCK
        shared = 900
    return made


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "codec", "share"),
    [
        ("", "entropy", 0.95),
        ("quantisation=int8,group=64", "raw", 0.45),
        pytest.param("quantisation=fp8,format=e4m3,group=64", "entropy", 0.45, marks=pytest.mark.slow),
    ],
)
def test_the_needle_is_found(recipe: str, codec: str, share: float, start: Callable[[str, str], Trio]) -> None:
    """Handed over by a prefill worker, read from the store, and found in pages."""
    trio = start(recipe, codec)
    assert answers(trio, "harbour") == [answer for _, answer in asked("harbour")]
    trio.at_rest()
    figures = trio.store.stats()
    raw = total(figures, "tier_blocks", tier="cpu") * PageMemory.page_bytes(spec(recipe))
    assert raw and total(figures, "tier_bytes", tier="cpu") < share * raw


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_of_another_recipe_share_nothing(start: Callable[[str, str], Trio], stack: ExitStack) -> None:
    """Neither handoffs nor blocks: what was rounded is under keys of its own."""
    recipe = "quantisation=int8,group=64"
    trio = start(recipe, "raw")
    tokens, right = asked("island")[0]
    assert trio.ask(tokens, 8)[1].prefilled_by == "p0"
    trio.at_rest()
    whole = len(tokens) // BLOCK
    assert [trio.store.lookup(chain(spec(each), tokens)).ready for each in (recipe, "")] == [whole, 0]
    other = stack.enter_context(worker(DecodeServer, "d1", trio, "", "raw"))
    trio.known("decode", 2)
    with DecodeClient(other.address) as exact:
        answer = exact.generate(tokens, max_tokens=8, timeout=30)
        assert tokenizer().decode(list(answer), skip_special_tokens=True) == right
        assert answer.usage is not None and answer.usage.reuse.reused == {}
        assert answer.usage.prefilled_by == "local" and answer.usage.reuse.computed == len(tokens)
    trio.at_rest()
    assert trio.store.lookup(chain(spec(""), tokens)).ready >= whole
