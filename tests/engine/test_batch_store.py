"""The serving loop and its store: blocks go in and out, and whatever fails costs computation only."""

import time
from typing import Any

import pytest
import torch

from cachestore.engine.batch_request import BatchToken, BatchUsage
from cachestore.engine.fetching import SURE
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.ragged import Batch
from cachestore.errors import (
    Aborted,
    Unavailable,
)
from cachestore.hashing import chain
from cachestore.store.tiered import TieredStore
from tests.engine.batches import (
    NEW,
    SIZE,
    Directory,
    Faulty,
    alone,
    ended,
    figure,
    prompt,
    request,
    serving,
    settled,
    until,
)


def test_generated_blocks_make_the_next_turn_warm(model: PagedModel, tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    with serving(model) as loop:
        made, _ = ended(loop.submit(request(prompt(20), 60, store=store, settle=True)))
    spoken = [*prompt(20), *made]
    assert store.lookup(chain(model.spec, spoken[:-1])).ready == 79 // SIZE
    with serving(model) as loop:
        first, _, usage = loop.submit(request([*spoken, 5, 6], 2, store=store))
        assert isinstance(first, BatchToken) and isinstance(usage, BatchUsage)
        assert first.reused == usage.reused == {"cpu": 64}
        assert first.computed_tokens == usage.computed_tokens == 18
        assert loop.cached("default", chain(model.spec, spoken).keys) == 5
        assert loop.cached("other", chain(model.spec, spoken).keys) == 0


def test_a_hanging_store_holds_nobody_up(model: PagedModel, model_dir: Directory, tiered: TieredStore) -> None:
    store = Faulty(tiered.namespace("default"))
    with serving(model, pages=60, store_timeout=20.0) as loop:
        store.held.clear()
        waits, leaves = (loop.submit(request(prompt(100, seed), store=store)) for seed in (1, 2))
        assert ended(loop.submit(request(prompt(30))))[0] == alone(model_dir("llama"), prompt(30))
        leaves.abort()
        with pytest.raises(Aborted):
            list(leaves)
        # its pages are still being read into
        until(lambda: figure(loop, "running") == 1)
        assert figure(loop, "pages_referenced") == 12
        store.held.set()
        made, usage = ended(waits)
        assert made == alone(model_dir("llama"), prompt(100, 1)) and usage.computed_tokens == 100


def test_a_read_waits_for_pages_that_puts_still_hold(
    model: PagedModel, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiered.namespace("default")
    with serving(model) as loop:
        ended(loop.submit(request(prompt(100), 1, store=store, settle=True)))
    slow = Faulty(store)
    monkeypatch.setattr(slow, "lookup", store.lookup)
    slow.held.clear()
    with serving(model, pages=10, put_timeout=30.0) as loop:
        ended(loop.submit(request(prompt(96, 1), 1, store=slow)))
        assert figure(loop, "pages_referenced") == 6
        stream = loop.submit(request(prompt(100), 1, store=store))
        until(lambda: figure(loop, "running") == 1)
        slow.held.set()
        assert ended(stream)[1].reused == {"cpu": 96}


def test_blocks_that_nobody_writes_are_not_waited_for_longer(model: PagedModel, tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    with serving(model) as loop:
        stream = loop.submit(request(prompt(100), store=store, wait=0.1))
        assert ended(stream)[1].computed_tokens == 100


def test_a_store_that_dies_costs_computation_only(model: PagedModel, model_dir: Directory, tiered: TieredStore) -> None:
    store = Faulty(tiered.namespace("default"))
    prompts = [prompt(90, seed) for seed in range(6)]
    with serving(model, pages=30) as loop:
        for tokens in prompts[:2]:
            ended(loop.submit(request(tokens, store=store, settle=True)))
        streams = [loop.submit(request(tokens, 40, store=store)) for tokens in prompts]
        next(streams[0])
        store.broken = Unavailable("the store is gone")
        answers = [list(stream) for stream in streams]
        for tokens, answer in zip(prompts, answers, strict=True):
            made = [token.id for token in answer if isinstance(token, BatchToken)]
            assert made == alone(model_dir("llama"), tokens, 40)[-len(made) :]
        assert figure(loop, "put_blocks_failed", reason="unavailable") > 0


def test_a_bug_in_a_store_costs_computation_only(model: PagedModel, tiered: TieredStore) -> None:
    store = Faulty(tiered.namespace("default"))
    store.broken = RuntimeError("a bug")
    with serving(model) as loop:
        assert len(ended(loop.submit(request(prompt(90), store=store, settle=True)))[0]) == NEW
        assert figure(loop, "fetches_failed", reason="internal") == 1
        assert figure(loop, "put_blocks_failed", reason="internal") > 0


def test_a_store_that_fails_is_left_alone_until_it_is_back(model: PagedModel, tiered: TieredStore) -> None:
    store = Faulty(tiered.namespace("default"))
    store.broken = Unavailable("the store is gone")
    with serving(model) as loop:
        for seed in range(6):
            ended(loop.submit(request(prompt(40, seed), store=store, settle=True)))
        assert figure(loop, "fetches") == figure(loop, "fetches_failed") < 6
        assert figure(loop, "put_blocks_dropped", why="alone") > 0
        store.broken = None
        seeds = iter(range(6, 1000))
        until(lambda: "stored" in settled(loop, request(prompt(40, next(seeds)), store=store, settle=True)))


def test_a_slow_run_in_the_middle_is_computed(
    model: PagedModel, model_dir: Directory, tiered: TieredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, forward = Faulty(tiered.namespace("default")), model.forward

    def slow(batch: Batch, *rest: Any) -> torch.Tensor:
        # slower than the store, and faster than its far part
        time.sleep(2e-4 * len(batch.ids))
        return forward(batch, *rest)

    monkeypatch.setattr(model, "forward", slow)
    tokens = prompt(170)
    keys = chain(model.spec, tokens)
    with serving(model) as loop:
        ended(loop.submit(request(tokens, store=store, settle=True)))
    store.far = frozenset(keys.keys[4:7])
    with serving(model, pages=60, chunk_tokens=96, recompute=True) as loop:
        # how fast prompts are computed and the far tier is, it learns here
        ended(loop.submit(request(prompt(150, 2))))
        for measured in range(1, SURE + 1):
            first = ended(loop.submit(request(tokens, store=store)))
            assert figure(loop, "fetch_runs", tier="far", choice="fetch") == measured
            # so that its own pages have it no more
            for seed in range(5):
                ended(loop.submit(request(prompt(280, 50 * measured + seed), 1)))
        second = ended(loop.submit(request(tokens, store=store)))
        assert first[0] == second[0] == alone(model_dir("llama"), tokens)
        assert figure(loop, "fetch_runs", tier="far", choice="compute") == 1
        assert second[1].computed_tokens == 3 * SIZE + 10
        assert sum(second[1].reused.values()) == 7 * SIZE


def test_a_prompt_by_slot_that_is_given_up_leaves_nothing_open(model: PagedModel, tiered: TieredStore) -> None:
    store, tokens = tiered.namespace("default"), prompt(900)
    with serving(model, chunk_tokens=16) as loop:
        stream = loop.submit(request(tokens, 1, store=store, by_slot=True))
        until(lambda: store.lookup(chain(model.spec, tokens)).ready > 0)
        stream.abort()
        with pytest.raises(Aborted):
            list(stream)
        until(lambda: store.lookup(chain(model.spec, tokens)).writing == 0)
        assert 0 < store.lookup(chain(model.spec, tokens)).ready < 56
