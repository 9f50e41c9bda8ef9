"""The bounds of the serving loop: deadlines, refusals, failures, its settings and its end."""

import random
import time
from threading import Event
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.batch_request import BatchRequest
from cachestore.engine.batch_settings import BatchSettings
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
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
from cachestore.store.tiered import TieredStore
from tests.engine.batches import (
    SIZE,
    Directory,
    Faulty,
    alone,
    ended,
    figure,
    prompt,
    request,
    serving,
    until,
)


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
        until(lambda: figure(loop, "requests_failed", reason="deadline") == 2)


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


def test_requests_that_cannot_be_meant(model: PagedModel) -> None:
    with serving(model, pages=4) as loop:
        for tokens, words in (([], "empty"), ([97], "0 .. 96")):
            with pytest.raises(InvalidArgument, match=words):
                loop.submit(request(tokens))
        with pytest.raises(TooLarge, match="the engine holds 63"):
            loop.submit(request(prompt(64)))
        first = FirstToken()
        first.tell(97)
        with pytest.raises(InvalidArgument, match="first"):
            list(loop.submit(request(prompt(6), first=first)))
        # what the pages hold ends it
        made, usage = ended(loop.submit(request(prompt(60), 100)))
        assert len(made) == 4 and usage.finish is Finish.LENGTH
        assert figure(loop, "requests_refused") == 3
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
