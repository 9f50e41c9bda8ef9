"""What the tests of the serving loop share: requests, what they must give, and stores that fail."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest, BatchToken, BatchUsage
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.settings import EngineSettings
from cachestore.engine.stopping import Stop
from cachestore.hashing import Chain
from cachestore.metrics import total
from cachestore.store.base import Lookup, Run

SIZE = 16
NEW = 12

Directory = Callable[[str], Path]


def opened(path: Path, recipe: str = "") -> PagedModel:
    model = PagedModel(EngineSettings(str(path), block_tokens=SIZE, recipe=recipe))
    model.open()
    return model


@contextmanager
def serving(model: PagedModel, **settings: Any) -> Iterator[BatchLoop]:
    loop = BatchLoop(
        model, BatchSettings(**{"pages": 200, "chunk_tokens": 32, "put_share": 1.0, "recompute": False, **settings})
    )
    loop.open()
    try:
        yield loop
        until(lambda: figure(loop, "pages_referenced") == 0)
    finally:
        loop.close()
    figures = loop.figures()
    assert total(figures, "prompt_tokens") == total(figures, "computed_tokens") + total(figures, "reused_tokens")
    assert total(figures, "requests") == total(figures, "requests_done") + total(figures, "requests_failed")


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def figure(loop: BatchLoop, name: str, **labels: str) -> int:
    return total(loop.figures(), name, **labels)


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 97, length)]


def request(tokens: Sequence[int], new: int = NEW, **fields: Any) -> BatchRequest:
    return BatchRequest(tokens, Stop(new), **{"deadline": Deadline.after(60.0), **fields})


def ended(stream: BatchStream) -> tuple[list[int], BatchUsage]:
    *items, usage = stream
    assert isinstance(usage, BatchUsage)
    tokens = [item for item in items if isinstance(item, BatchToken)]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert usage.prompt_tokens == usage.computed_tokens + sum(usage.reused.values())
    assert usage.generated_tokens == len(tokens)
    return [token.id for token in tokens], usage


@lru_cache
def reference(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def alone(path: Path, tokens: list[int], new: int = NEW) -> list[int]:
    """The tokens of a lone run with transformers."""
    ids = torch.tensor([tokens])
    # without a mask of its own it would take tokens like the padding's for padding
    out = reference(path).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    made: list[int] = out[0, len(tokens) :].tolist()
    return made


class Faulty:
    """A store that raises, hangs or names other tiers when told to; otherwise the one behind it."""

    def __init__(self, store: Any) -> None:
        self.broken: Exception | None = None
        self.held = Event()
        self.held.set()
        self.far: frozenset[bytes] = frozenset()
        self._store = store

    def _pass(self) -> None:
        self.held.wait(20.0)
        if self.broken is not None:
            raise self.broken

    def lookup(self, keys: Chain, **options: Any) -> Lookup:
        self._pass()
        found = self._store.lookup(keys, **options)
        runs = [Run(1, "far" if key in self.far else "near", "here") for key in keys.keys[: found.ready]]
        merged: list[Run] = []
        for run in runs:
            if merged and merged[-1].tier == run.tier:
                run = run._replace(blocks=merged.pop().blocks + 1)
            merged.append(run)
        return Lookup(found.ready, tuple(merged), found.writing)

    def read(self, keys: Chain, **options: Any) -> Any:
        self._pass()
        if self.far & set(keys.keys):
            time.sleep(0.3)
        return self._store.read(keys, **options)

    def put(self, *arguments: Any, **options: Any) -> Any:
        self._pass()
        return self._store.put(*arguments, **options)


def settled(loop: BatchLoop, asked: BatchRequest) -> set[str]:
    """What became of puts so far, after one request more."""
    ended(loop.submit(asked))
    return {each.label("status") for each in loop.figures() if each.name == "put_blocks"}
