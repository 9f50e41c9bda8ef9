"""A prompt that one loop computes while another waits for its blocks, and for the first token."""

import time
from collections.abc import Iterator
from itertools import islice
from threading import Event
from typing import Any

import pytest
import torch

from cachestore.engine.batch_request import BatchProgress, BatchToken, BatchUsage
from cachestore.engine.batch_stream import BatchStream
from cachestore.engine.first_token import FirstToken
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.stopping import Finish
from cachestore.errors import Aborted
from cachestore.hashing import chain
from cachestore.store.base import Purpose, Store
from cachestore.store.tiered import TieredStore
from tests.engine.batches import SIZE, Directory, alone, ended, figure, opened, prompt, request, serving, until


@pytest.fixture
def store(tiered: TieredStore) -> Store:
    return tiered.namespace("default")


@pytest.fixture(scope="module")
def other(model_dir: Directory) -> Iterator[PagedModel]:
    model = opened(model_dir("llama"))
    yield model
    model.close()


@pytest.fixture
def gate(model: PagedModel, monkeypatch: pytest.MonkeyPatch) -> Event:
    """While it is not set, `model` computes nothing."""
    forward, gate = model.forward, Event()

    def later(*arguments: Any) -> torch.Tensor:
        gate.wait(20.0)
        return forward(*arguments)

    monkeypatch.setattr(model, "forward", later)
    return gate


def begun(stream: BatchStream) -> int:
    """How many tokens were computed when its blocks could be waited for."""
    return next(item.computed for item in stream if isinstance(item, BatchProgress) and item.begun)


def taken(tokens: list[int], new: int, store: Store, first: FirstToken, **fields: Any) -> Any:
    """The request of an engine that goes on from what another hands over."""
    return request(tokens, new, **{"store": store, "wait": 30.0, "purpose": Purpose.HANDOFF, "first": first, **fields})


def test_a_prompt_travels_slot_by_slot(
    model: PagedModel, other: PagedModel, model_dir: Directory, store: Store, gate: Event
) -> None:
    tokens, first = prompt(200), FirstToken()
    wanted = alone(model_dir("llama"), tokens)
    with serving(other) as decode, serving(model, chunk_tokens=16) as prefill:
        handing = prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True))
        assert begun(handing) == 0
        waiting = decode.submit(taken(tokens, 12, store, first))
        first.tell(wanted[0], -0.5, ((wanted[0], -0.5),))
        # it is there before anything was computed
        assert next(waiting) == BatchToken(wanted[0], 0, logprob=-0.5, top=((wanted[0], -0.5),))
        gate.set()
        made, done = ended(handing)
        assert made == wanted[:1] and done.computed_tokens == 200
        assert store.lookup(chain(model.spec, tokens)).ready == 12
        *rest, usage = waiting
        assert [token.id for token in rest if isinstance(token, BatchToken)] == wanted[1:]
        assert isinstance(usage, BatchUsage)
        assert usage.reused == {"cpu": 192} and usage.computed_tokens == 8
        # what is stored already can be waited for at once, before the rest is computed
        gate.clear()
        again = prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True))
        assert begun(again) == 192
        gate.set()


@pytest.mark.parametrize("lost", [0, 4])
@pytest.mark.parametrize("more", [0, 40])
def test_what_the_store_has_lost_is_put_again(
    lost: int, more: int, model: PagedModel, other: PagedModel, model_dir: Directory, store: Store
) -> None:
    """Also blocks that the engine need not compute, since they are in its pages still."""
    tokens = prompt(100)
    longer, keys = [*tokens, *prompt(more, 2)], chain(model.spec, tokens)
    with serving(model) as prefill:
        ended(prefill.submit(request(tokens, 1, store=store, by_slot=True, settle=True)))
        assert store.lookup(keys).ready == 6
        store.delete(keys.behind(lost))
        assert store.lookup(keys).ready == lost
        _, usage = ended(prefill.submit(request(longer, 1, store=store, by_slot=True, settle=True)))
        assert usage.reused == {"engine": 96} and figure(prefill, "pages_referenced") == 0
    whole = len(longer) // SIZE
    assert store.lookup(chain(model.spec, longer)).ready == whole
    with serving(other) as decode:
        made, usage = ended(decode.submit(request(longer, 12, store=store)))
    assert made == alone(model_dir("llama"), longer) and usage.reused == {"cpu": whole * SIZE}


@pytest.mark.parametrize("length", [64, 70])
@pytest.mark.parametrize("told", [True, False])
def test_with_all_blocks_here_the_first_token_is_waited_for(
    told: bool, length: int, model: PagedModel, model_dir: Directory, store: Store
) -> None:
    tokens, first = prompt(length), FirstToken()
    wanted = alone(model_dir("llama"), tokens)
    with serving(model) as loop:
        ended(loop.submit(request(tokens, 1, store=store, settle=True)))
    with serving(model) as loop:
        stream = loop.submit(taken(tokens, 12, store, first))
        # the tail of the prompt but for its last token is computed meanwhile
        until(lambda: figure(loop, "step_tokens") == max(0, length % SIZE - 1))
        until(lambda: figure(loop, "fetches") == 1)
        time.sleep(0.2)
        assert figure(loop, "generated_tokens") == figure(loop, "requests_done") == 0
        first.tell(wanted[0]) if told else first.give_up()
        assert ended(stream)[0] == wanted
        # the last token is queried once, here or there
        assert figure(loop, "step_tokens") == length % SIZE + 11 + (length == 64 and not told)


def test_what_is_missing_is_computed_and_the_token_drawn_here(
    model: PagedModel, model_dir: Directory, store: Store
) -> None:
    tokens, first = prompt(100), FirstToken()
    with serving(model) as loop:
        ended(loop.submit(request(tokens[:40], 1, store=store, settle=True)))
    with serving(model) as loop:
        made, usage = ended(loop.submit(taken(tokens, 12, store, first, wait=0.1)))
        assert made == alone(model_dir("llama"), tokens)
        assert usage.reused == {"cpu": 32} and usage.computed_tokens == 68
        first.tell(made[0] + 1)


def test_whoever_gives_up_cuts_the_wait_short(
    model: PagedModel, model_dir: Directory, store: Store, gate: Event, other: PagedModel
) -> None:
    tokens, first = prompt(100), FirstToken()
    with serving(model, chunk_tokens=16) as prefill, serving(other) as decode:
        handing = prefill.submit(request(tokens, 1, store=store, by_slot=True))
        begun(handing)
        waiting = decode.submit(taken(tokens, 12, store, first))
        until(lambda: figure(decode, "fetches") == 1)
        asked = time.monotonic()
        first.give_up()
        made, usage = ended(waiting)
        assert made == alone(model_dir("llama"), tokens) and usage.computed_tokens == 100
        assert time.monotonic() - asked < 5.0
        gate.set()


def test_a_read_that_waits_leaves_threads_and_ends_with_its_request(
    model: PagedModel, model_dir: Directory, store: Store
) -> None:
    with serving(model) as loop:
        ended(loop.submit(request(prompt(64), 1, store=store, settle=True)))
    with serving(model, io_threads=1) as loop:
        waiting = [loop.submit(taken(prompt(100, seed), 12, store, FirstToken())) for seed in range(1, 6)]
        until(lambda: figure(loop, "fetches") == 5)
        made, usage = ended(loop.submit(request(prompt(64), store=store)))
        assert made == alone(model_dir("llama"), prompt(64)) and usage.reused == {"cpu": 64}
        asked = time.monotonic()
        for stream in waiting:
            stream.abort()
            with pytest.raises(Aborted):
                list(stream)
        until(lambda: figure(loop, "pages_referenced") == 0)
        assert time.monotonic() - asked < 5.0


def test_finishing_is_as_if_the_stop_had_come(model: PagedModel, model_dir: Directory, store: Store) -> None:
    with serving(model) as loop:
        stream = loop.submit(request(prompt(20), 900, store=store, settle=True))
        made = [item.id for item in islice(stream, 40) if isinstance(item, BatchToken)]
        stream.finish()
        *rest, usage = stream
        made += [item.id for item in rest if isinstance(item, BatchToken)]
        assert isinstance(usage, BatchUsage) and usage.finish is Finish.STOP
        assert usage.generated_tokens == len(made) < 900
        assert made == alone(model_dir("llama"), prompt(20), len(made))
        spoken = [*prompt(20), *made]
        assert store.lookup(chain(model.spec, spoken[:-1])).ready == (len(spoken) - 1) // SIZE
        waiting = loop.submit(request(prompt(100, 1), store=store, wait=30.0))
        waiting.finish()
        [usage] = waiting
        assert isinstance(usage, BatchUsage) and usage.generated_tokens == usage.computed_tokens == 0


def test_progress_is_told_while_nothing_comes(model: PagedModel, store: Store) -> None:
    with serving(model) as loop:
        stream = loop.submit(request(prompt(100), 1, store=store, by_slot=True, wait=30.0))
        assert next(stream) == BatchProgress(0, False)
        asked = time.monotonic()
        assert next(stream) == BatchProgress(0, False)
        assert time.monotonic() - asked < 2.0
        stream.abort()
