"""The logic of prefill with a store in this process."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, TooLarge, Unavailable
from cachestore.hashing import chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.store.base import Lease, Purpose, Store
from prefill_worker.call import Call
from prefill_worker.handoff import Begun, Handoff, Progress, Told
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.settings import PrefillSettings
from prefill_worker.stores import Stores
from prefill_worker.token import Reuse, Token
from prefill_worker.worker import PrefillWorker
from tests.workers.loops import lone

TOKENS = [3 + number * 7 % 90 for number in range(53)]


def call(seconds: float = 20.0) -> Call:
    return Call(Deadline.after(seconds))


@pytest.fixture
def make_worker(model: PagedModel, open_loop: Callable[..., BatchLoop]) -> Callable[..., PrefillWorker]:
    def make(store: Any, **settings: Any) -> PrefillWorker:
        return PrefillWorker(model, open_loop(**settings), Stores(store, "here"), 8, PrefillSettings())

    return make


@pytest.fixture
def store(make_store: Callable[..., Any]) -> Iterator[Store]:
    store = make_store().namespace("default")
    yield store
    eventually(lambda: rests(store))


def rests(store: Store) -> bool:
    figures = store.stats()
    return not total(figures, "leases_open") and not total(figures, "puts_open")


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def prefilled(worker: PrefillWorker, prompt: Prompt) -> tuple[list[Told], Token, Handoff]:
    told = list(worker.prefill(prompt, call()))
    (token,) = (each for each in told if isinstance(each, Token))
    assert isinstance(told[0], Progress | Begun) and isinstance(told[-1], Handoff)
    assert [each for each in told if isinstance(each, Begun)] == [Begun("here")]
    return told, token, told[-1]


def test_a_handoff_is_a_lease_on_the_prompts_blocks(
    make_worker: Callable[..., PrefillWorker], model: PagedModel, store: Store
) -> None:
    worker, sampling = make_worker(store), Sampling(temperature=1.0, seed=4)
    _, token, handoff = prefilled(worker, Prompt(TOKENS, sampling))
    assert token == Token(lone(model, TOKENS, 1, sampling)[0], 0, Reuse(53, {}))
    assert handoff.blocks == 3
    assert total(store.stats(), "leases_open") == 1
    keys = chain(model.spec, TOKENS)
    with store.read(keys, lease=Lease(handoff.lease, handoff.blocks, 0.0), purpose=Purpose.HANDOFF) as reading:
        assert [block.token_count for block, _ in reading] == [16, 16, 16]
    eventually(lambda: rests(store))

    _, token, again = prefilled(worker, Prompt(TOKENS))
    assert token.reuse == Reuse(5, {"engine": 48}) and again.blocks == 3
    worker.release(call().caller, again)
    _, token, salted = prefilled(worker, Prompt(TOKENS, salts=(b"other",)))
    assert token.reuse == Reuse(53, {})
    worker.release(call().caller, salted)
    _, _, short = prefilled(worker, Prompt(TOKENS[:5]))
    assert short == Handoff(b"", 0)


def test_what_another_worker_stored_is_not_computed(make_worker: Callable[..., PrefillWorker], store: Store) -> None:
    one, other = make_worker(store), make_worker(store)
    for worker, reuse in ((one, Reuse(53, {})), (other, Reuse(5, {"cpu": 48}))):
        _, token, handoff = prefilled(worker, Prompt(TOKENS))
        assert token.reuse == reuse
        worker.release(call().caller, handoff)


def test_a_handoff_that_nobody_takes_is_released(make_worker: Callable[..., PrefillWorker], store: Store) -> None:
    telling = make_worker(store).prefill(Prompt(TOKENS), call())
    while not isinstance(next(telling), Handoff):
        pass
    assert not rests(store)
    telling.close()
    assert rests(store)


def test_what_the_store_cannot_keep_makes_the_handoff_shorter(
    make_worker: Callable[..., PrefillWorker], make_store: Callable[..., Any]
) -> None:
    small = make_store("64KiB").namespace("default")
    worker, held = make_worker(small), []
    # leased blocks may not leave, so there is room for part of the prompt only
    for seed in range(3, 40):
        _, _, handoff = prefilled(worker, Prompt([seed] * 16))
        held.append(handoff)
        if not handoff.blocks:
            break
    assert total(small.stats(), "put_not_kept")
    for handoff in held[:2]:
        worker.release(call().caller, handoff)
    _, _, handoff = prefilled(worker, Prompt(TOKENS))
    assert 0 < handoff.blocks < 3 and total(worker.figures(), "short_handoffs") == 2


@pytest.mark.parametrize("end", ["abort", "deadline", "leave"])
def test_giving_up_leaves_nothing(end: str, make_worker: Callable[..., PrefillWorker], store: Store) -> None:
    worker = make_worker(store, chunk_tokens=16)
    over = call(0.1 if end == "deadline" else 20.0)
    telling = worker.prefill(Prompt(TOKENS * 19), over)
    while not isinstance(next(telling), Begun):
        pass
    if end == "leave":
        telling.close()
    else:
        threading.Timer(0.01, over.abort if end == "abort" else lambda: None).start()
        with pytest.raises(Aborted if end == "abort" else DeadlineExceeded):
            list(telling)
    eventually(lambda: rests(store) and not total(worker.figures(), "pages_referenced"))
    figures = worker.figures()
    assert total(figures, "requests") == total(figures, "requests_failed") == 1


def test_without_the_store_there_is_no_handoff(make_worker: Callable[..., PrefillWorker]) -> None:
    with RemoteStore("127.0.0.1:9") as away:
        with pytest.raises(Unavailable):
            list(make_worker(away).prefill(Prompt(TOKENS), call()))


def test_what_is_refused(make_worker: Callable[..., PrefillWorker], store: Store) -> None:
    worker = make_worker(store, pages=8)
    for prompt, wrong in (
        (Prompt(TOKENS, cache=CacheUse.OFF), "OFF"),
        (Prompt([]), "tokens must not be empty"),
        (Prompt([5, 97]), r"tokens\[1\]"),
    ):
        with pytest.raises(InvalidArgument, match=wrong):
            next(worker.prefill(prompt, call()))
    with pytest.raises(InvalidArgument, match="logprobs"):
        next(worker.prefill(Prompt(TOKENS), call(), logprobs=21))
    with pytest.raises(TooLarge):
        next(worker.prefill(Prompt(TOKENS * 3), call()))
    assert not total(store.stats(), "lookups") and not total(store.stats(), "put_blocks")
    assert total(worker.figures(), "requests_refused", reason="too_large") == 1
