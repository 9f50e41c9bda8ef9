"""The serving loop against transformers' own `generate` on each request alone."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest, BatchToken, BatchUsage
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.ragged import Batch
from cachestore.engine.sampling import Sampling
from cachestore.engine.settings import EngineSettings
from cachestore.engine.stopping import Finish, Stop
from cachestore.errors import (
    Aborted,
    ConfigError,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    Overloaded,
    TooLarge,
    Unavailable,
)
from cachestore.hashing import Chain, chain
from cachestore.metrics import total
from cachestore.store.base import Lookup, Purpose, Run
from cachestore.store.compose import compose
from cachestore.store.tiered import TieredStore

SIZE = 16
NEW = 12

Directory = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"))
    yield model
    model.close()


def opened(path: Path) -> PagedModel:
    model = PagedModel(EngineSettings(str(path), block_tokens=SIZE, chunk_tokens=SIZE))
    model.open()
    return model


@pytest.fixture
def tiered(tmp_path: Path) -> Iterator[TieredStore]:
    tiers = [
        {"name": "cpu", "capacity": "1MiB"},
        {"name": "disk", "path": str(tmp_path / "disk"), "capacity": "64MiB"},
    ]
    with compose({"tiers": tiers}) as store:
        yield store
        store.settle()
        store.check()


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
    *tokens, usage = stream
    assert isinstance(usage, BatchUsage)
    assert [token.index for token in tokens if isinstance(token, BatchToken)] == list(range(len(tokens)))
    assert usage.prompt_tokens == usage.computed_tokens + sum(usage.reused.values())
    assert usage.generated_tokens == len(tokens)
    return [token.id for token in tokens if isinstance(token, BatchToken)], usage


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


NAMES = ["llama", "qwen3", "mistral", "gemma2", "mixtral"]


@pytest.mark.parametrize("name", NAMES)
def test_any_mixture_gives_the_tokens_of_lone_runs(name: str, model_dir: Directory, tiered: TieredStore) -> None:
    path, store = model_dir(name), tiered.namespace("default")
    model = opened(path)
    prompts = [prompt(length, length) for length in (1, 5, 16, 33, 64, 70, 100, 180)]
    half = [[*prompts[5][:48], *prompt(9, 3)], [*prompts[7][:100], *prompt(70, 4)], prompts[4][:32], prompts[7][:176]]
    wanted = {tuple(tokens): alone(path, tokens) for tokens in prompts + half}

    def ask(loop: BatchLoop, several: list[list[int]]) -> list[BatchUsage]:
        answers = [ended(stream) for stream in [loop.submit(request(tokens, store=store)) for tokens in several]]
        for tokens, (made, _) in zip(several, answers, strict=True):
            assert made == wanted[tuple(tokens)]
        return [usage for _, usage in answers]

    # too few pages for all at once
    with serving(model, pages=40) as loop:
        assert sum(usage.computed_tokens for usage in ask(loop, prompts)) == sum(map(len, prompts))
        warm = ask(loop, prompts + half)
        assert {tier for usage in warm for tier in usage.reused} >= {"engine"}
        for usage in warm:
            assert usage.computed_tokens < SIZE or usage.prompt_tokens in (57, 170)
        until(lambda: total(tiered.namespace("default").stats(), "put_open") == 0)
    # pages of another engine: all comes from the store
    with serving(model, pages=40) as loop:
        warm = ask(loop, half + prompts)
        assert not {tier for usage in warm for tier in usage.reused} - {"engine", "cpu", "disk"}
        assert sum(usage.computed_tokens for usage in warm) == sum(len(tokens) % SIZE for tokens in half + prompts)
    model.close()


def test_generated_blocks_make_the_next_turn_warm(model: PagedModel, tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    with serving(model) as loop:
        made, _ = ended(loop.submit(request(prompt(20), 60, store=store, settle=True)))
    spoken = [*prompt(20), *made]
    assert store.lookup(chain(model.spec, spoken[:-1])).ready == 79 // SIZE
    with serving(model) as loop:
        _, usage = ended(loop.submit(request([*spoken, 5, 6], 2, store=store)))
        assert usage.reused == {"cpu": 64} and usage.computed_tokens == 18


@pytest.mark.parametrize("use_store", [True, False])
def test_a_victim_comes_back_by_its_prefix(
    use_store: bool, model: PagedModel, model_dir: Directory, tiered: TieredStore
) -> None:
    store = tiered.namespace("default") if use_store else None
    # predicted to be short, so that too many start
    scheduling = {"name": "fcfs", "predictor": {"name": "exact"}}
    with serving(model, pages=14, scheduling=scheduling) as loop:
        prompts = [prompt(40, seed) for seed in range(4)]
        streams = [loop.submit(request(tokens, 80, store=store, expected=2)) for tokens in prompts]
        answers = [ended(stream) for stream in streams]
        assert [made for made, _ in answers] == [alone(model_dir("llama"), tokens, 80) for tokens in prompts]
        assert sum(usage.preempted for _, usage in answers) == figure(loop, "preempted") > 0
        assert figure(loop, "predicted_short") == 4
        restored, again = figure(loop, "restored_tokens"), figure(loop, "recomputed_tokens")
        if use_store:
            # of each victim, what did not fill a block yet, and perhaps blocks whose put was still under way
            assert restored > 2 * again
        else:
            assert again > 0 and figure(loop, "restored_tokens", tier="cpu") == 0


def test_the_same_seed_gives_the_same_tokens_in_any_batch(model: PagedModel, tiered: TieredStore) -> None:
    store = tiered.namespace("default")
    asked = [(prompt(30 + seed, seed % 3), Sampling(0.8, top_p=0.95, seed=seed)) for seed in range(8)]
    several = []
    for most in (1, 3, 8):
        with serving(model, max_batch=most, chunk_tokens=16 * most) as loop:
            streams = [
                loop.submit(request(tokens, 20, sampling=how, choice=choice, store=store))
                for choice, (tokens, how) in enumerate(asked)
            ]
            several.append([ended(stream)[0] for stream in streams])
    assert several[0] == several[1] == several[2]


def test_a_prompt_asked_many_times_at_once_is_computed_once(model: PagedModel) -> None:
    with serving(model, chunk_tokens=1000) as loop:
        how = Sampling(1.0, seed=3)
        streams = [loop.submit(request(prompt(160), sampling=how, choice=choice)) for choice in range(5)]
        answers = [ended(stream) for stream in streams]
        assert len({tuple(made) for made, _ in answers}) == 5
        assert figure(loop, "computed_tokens") == 160
        assert figure(loop, "reused_tokens", tier="engine") == 4 * 160


def test_tokens_come_with_text_and_logprobs(model: PagedModel, model_dir: Directory) -> None:
    wanted = alone(model_dir("llama"), prompt(20), 8)

    def decode(tokens: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)

    text = decode(wanted)
    with serving(model) as loop:
        *tokens, usage = loop.submit(request(prompt(20), 8, decode=decode, logprobs=3))
        assert "".join(token.text for token in tokens if isinstance(token, BatchToken)) == text
        for token in tokens:
            assert isinstance(token, BatchToken) and token.top[0] == (token.id, token.logprob) and len(token.top) == 3
        cut = text.index(text[4:6])
        stop = Stop(8, strings=(text[4:6],))
        *tokens, usage = loop.submit(BatchRequest(prompt(20), stop, Deadline.after(30.0), decode=decode))
        assert "".join(token.text for token in tokens if isinstance(token, BatchToken)) == text[:cut]
        assert isinstance(usage, BatchUsage) and usage.finish is Finish.STOP
        stop = Stop(8, tokens=frozenset(wanted[2:3]))
        made, usage = ended(loop.submit(BatchRequest(prompt(20), stop, Deadline.after(30.0))))
        assert made == wanted[: wanted.index(wanted[2]) + 1] and usage.finish is Finish.STOP


def test_text_that_cannot_be_made_ends_one_request(model: PagedModel) -> None:
    def decode(tokens: Sequence[int]) -> str:
        raise ValueError("no such token")

    with serving(model) as loop:
        bad, good = loop.submit(request(prompt(20), decode=decode)), loop.submit(request(prompt(20)))
        with pytest.raises(InternalError, match="making text"):
            list(bad)
        assert len(ended(good)[0]) == NEW


def test_an_abort_frees_pages_while_others_go_on(model: PagedModel, model_dir: Directory) -> None:
    with serving(model, pages=60) as loop:
        with loop.submit(request(prompt(40), 700)) as leaving:
            next(leaving)
        other = loop.submit(request(prompt(50, 1)))
        gone = loop.submit(request(prompt(60, 2), 700))
        gone.abort()
        with pytest.raises(Aborted):
            list(gone)
        assert ended(other)[0] == alone(model_dir("llama"), prompt(50, 1))
        until(lambda: figure(loop, "pages_referenced") == 0)
        assert figure(loop, "requests_failed", reason="aborted") == 2
        assert figure(loop, "pages_free") + figure(loop, "pages_cached") == 60


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


def settled(loop: BatchLoop, asked: BatchRequest) -> set[str]:
    """What became of puts so far, after one request more."""
    ended(loop.submit(asked))
    return {each.label("status") for each in loop.figures() if each.name == "put_blocks"}


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
        first = ended(loop.submit(request(tokens, store=store)))
        assert figure(loop, "fetch_runs", tier="far", choice="fetch") == 1
        # so that its own pages have it no more
        for seed in range(5):
            ended(loop.submit(request(prompt(280, 50 + seed), 1)))
        second = ended(loop.submit(request(tokens, store=store)))
        assert first[0] == second[0] == alone(model_dir("llama"), tokens)
        assert figure(loop, "fetch_runs", tier="far", choice="compute") == 1
        assert second[1].computed_tokens == 3 * SIZE + 10
        assert sum(second[1].reused.values()) == 7 * SIZE


def test_a_step_that_fails_ends_its_sequences_only(
    model: PagedModel, model_dir: Directory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(model) as loop:
        forward, failing = model.forward, Event()

        def fail(*arguments: Any) -> Any:
            if failing.is_set():
                raise RuntimeError("out of memory")
            return forward(*arguments)

        monkeypatch.setattr(model, "forward", fail)
        streams = [loop.submit(request(prompt(40, seed), 700)) for seed in range(2)]
        for stream in streams:
            next(stream)
        failing.set()
        for stream in streams:
            with pytest.raises(InternalError, match=r"step .* failed"):
                list(stream)
        failing.clear()
        assert "out of memory" in caplog.text
        until(lambda: figure(loop, "pages_referenced") == 0)
        assert ended(loop.submit(request(prompt(40))))[0] == alone(model_dir("llama"), prompt(40))


def test_more_than_may_wait_is_refused(model: PagedModel) -> None:
    with serving(model, max_batch=1, max_waiting=2) as loop:
        running = loop.submit(request(prompt(20), 900))
        next(running)
        waiting = [loop.submit(request(prompt(20, seed), 2)) for seed in (1, 2)]
        until(lambda: figure(loop, "waiting") == 2)
        with pytest.raises(Overloaded, match="2 requests wait"):
            loop.submit(request(prompt(20, 3)))
        assert figure(loop, "requests_refused", reason="overloaded") == 1
        running.abort()
        for stream in waiting:
            assert len(ended(stream)[0]) == 2


def test_the_deadline_ends_those_that_wait_and_those_that_run(model: PagedModel) -> None:
    with serving(model, max_batch=1) as loop:
        begun = time.monotonic()
        running = loop.submit(request(prompt(20), 1000, deadline=Deadline.after(0.4)))
        next(running)
        waiting = loop.submit(request(prompt(20, 1), deadline=Deadline.after(0.2)))
        for stream in (waiting, running):
            with pytest.raises(DeadlineExceeded):
                list(stream)
        assert time.monotonic() - begun < 1.4
        assert figure(loop, "requests_failed", reason="deadline") == 2


@pytest.mark.parametrize(("ageing", "first"), [(1e9, "long"), (0.0, "short")])
def test_nobody_starves_where_waiting_counts(ageing: float, first: str, model: PagedModel) -> None:
    scheduling = {"name": "mc_sf", "ageing": ageing, "predictor": {"name": "bound"}}
    with serving(model, max_batch=1, scheduling=scheduling) as loop:
        held = loop.submit(request(prompt(20), 900))
        next(held)
        long = loop.submit(request(prompt(20, 1), 30))
        until(lambda: figure(loop, "waiting") == 1)
        short = loop.submit(request(prompt(20, 2), 3))
        until(lambda: figure(loop, "waiting") == 2)
        held.abort()
        began = {"long": ended(long)[1].first_token_ms, "short": ended(short)[1].first_token_ms}
        assert min(began, key=lambda name: began[name]) == first


def test_a_prompt_travels_slot_by_slot_to_an_engine_that_waits(
    model: PagedModel, model_dir: Directory, tiered: TieredStore
) -> None:
    store, tokens = tiered.namespace("default"), prompt(200)
    other = opened(model_dir("llama"))
    with serving(other) as decode, serving(model, chunk_tokens=16) as prefill:
        waiting = decode.submit(request(tokens, store=store, wait=5.0, purpose=Purpose.HANDOFF))
        (first,), done = ended(prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True)))
        assert done.computed_tokens == 200
        assert store.lookup(chain(model.spec, tokens)).ready == 12
        made, usage = ended(waiting)
        assert made == alone(model_dir("llama"), tokens) and made[0] == first
        assert usage.reused == {"cpu": 192} and usage.computed_tokens == 8
        handed = decode.submit(request(prompt(96, 7), 5, first_token=11))
        assert ended(handed)[0] == [11, *alone(model_dir("llama"), [*prompt(96, 7), 11], 4)]
    other.close()


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


def test_requests_that_cannot_be_meant(model: PagedModel) -> None:
    with serving(model, pages=4) as loop:
        for tokens, words in (([], "empty"), ([97], "0 .. 96")):
            with pytest.raises(InvalidArgument, match=words):
                loop.submit(request(tokens))
        with pytest.raises(TooLarge, match="the engine holds 63"):
            loop.submit(request(prompt(64)))
        with pytest.raises(InvalidArgument, match="first_token"):
            loop.submit(request(prompt(6), first_token=97))
        # what the pages hold ends it
        made, usage = ended(loop.submit(request(prompt(60), 100)))
        assert len(made) == 4 and usage.finish is Finish.LENGTH
        assert figure(loop, "requests_refused") == 4
    for wrong in ({"choice": -1}, {"logprobs": -1}, {"wait": -1.0}):
        with pytest.raises(InvalidArgument, match=next(iter(wrong))):
            request(prompt(6), **wrong)
    with pytest.raises(InvalidArgument, match="decode"):
        BatchRequest(prompt(6), Stop(1, strings=("x",)), Deadline.after(1.0))


def test_closing_ends_all_that_wait_and_run(model: PagedModel, tiered: TieredStore) -> None:
    loop = BatchLoop(model, BatchSettings(pages=50, max_batch=1))
    with pytest.raises(Unavailable, match="not open"):
        loop.submit(request(prompt(5)))
    loop.open()
    streams = [loop.submit(request(prompt(20, seed), 900, store=tiered.namespace("default"))) for seed in range(3)]
    next(streams[0])
    loop.close()
    loop.close()
    for stream in streams:
        with pytest.raises(Unavailable, match="closing"):
            list(stream)
    assert figure(loop, "pages_referenced") == 0
    with pytest.raises(Unavailable, match="not open"):
        loop.submit(request(prompt(5)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pages": -1}, "batch.pages"),
        ({"memory": 0}, "batch.memory"),
        ({"chunk_tokens": 0}, "batch.chunk_tokens"),
        ({"max_batch": 0}, "batch.max_batch"),
        ({"max_waiting": 0}, "batch.max_waiting"),
        ({"io_threads": 0}, "batch.io_threads"),
        ({"store_timeout": 0.0}, "batch.store_timeout"),
        ({"put_timeout": -1.0}, "batch.put_timeout"),
        ({"put_share": 1.5}, "batch.put_share"),
        ({"scheduling": {"name": "lifo"}}, "lifo"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BatchSettings(**settings)


def test_memory_says_how_many_pages(model: PagedModel) -> None:
    with serving(model, pages=0, memory=100_000) as loop:
        assert figure(loop, "pages") == 100_000 // (3 * 2 * 2 * SIZE * 16 * 4)
    with pytest.raises(ConfigError, match=r"batch\.memory"):
        BatchLoop(model, BatchSettings(memory=100))


@pytest.mark.slow
def test_a_crowd_that_comes_and_goes_leaves_nothing(
    model: PagedModel, model_dir: Directory, tiered: TieredStore
) -> None:
    store, order = Faulty(tiered.namespace("default")), random.Random(5)
    prompts = [prompt(order.randint(1, 200), seed) for seed in range(20)]
    prompts += [[*order.choice(prompts)[: order.randint(1, 200)], *prompt(order.randint(1, 60), 99)] for _ in range(20)]
    wanted = [alone(model_dir("llama"), tokens, 30) for tokens in prompts]
    scheduling = {"name": "mc_sf", "predictor": {"name": "exact"}}
    with serving(model, pages=50, max_batch=8, max_waiting=1000, scheduling=scheduling) as loop:
        for _ in range(6):
            store.broken = Unavailable("gone") if order.random() < 0.3 else None
            asked = order.choices(range(len(prompts)), k=30)
            streams = [
                loop.submit(request(prompts[at], 30, store=order.choice([store, None]), expected=order.randint(1, 30)))
                for at in asked
            ]
            for at, stream in zip(asked, streams, strict=True):
                if order.random() < 0.3:
                    stream.abort()
                    continue
                assert ended(stream)[0] == wanted[at]
        assert figure(loop, "preempted") > 0
