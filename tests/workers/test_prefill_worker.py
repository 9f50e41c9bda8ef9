"""The logic of prefill with a store in this process."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.engine.hf import HfEngine
from cachestore.engine.sampling import Sampler, Sampling
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, Unavailable
from cachestore.hashing import chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.seal import PARENT_BYTES, Header
from cachestore.service.client import RemoteStore
from cachestore.store.base import BlockPlan, Purpose, Store
from cachestore.store.local import LocalStore
from prefill_worker.call import Call
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.settings import PrefillSettings
from prefill_worker.worker import PrefillWorker

TOKENS = [3 + number * 7 % 90 for number in range(53)]


def call(seconds: float = 10.0) -> Call:
    return Call(Deadline.after(seconds))


def worker(engine: HfEngine, store: Any, **settings: Any) -> PrefillWorker:
    return PrefillWorker(engine, store, "here", PrefillSettings(**settings))


def rests(store: Store) -> bool:
    figures = store.stats()
    return not total(figures, "leases_open") and not total(figures, "puts_open")


def eventually_rests(store: Store) -> None:
    until = time.monotonic() + 10
    while not rests(store):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_handoff_covers_the_prompt_and_its_lease_is_used_by_reading(
    engine: HfEngine, serve: Callable[..., Any]
) -> None:
    with RemoteStore(serve().address) as store:
        _handoff_and_lease(engine, store)


def _handoff_and_lease(engine: HfEngine, store: RemoteStore) -> None:
    prefill = worker(engine, store)
    sampling = Sampling(temperature=1.0, seed=4)
    handoff = prefill.prefill(Prompt(TOKENS, sampling), call())
    keys = chain(engine.spec, TOKENS)
    handoff.check(keys, 53, 16, engine.vocabulary)
    assert handoff.position == 53 and handoff.tail_tokens == 5 and handoff.reuse.computed == 53
    right = engine.sequence()
    assert handoff.first_token == Sampler(sampling).pick(right.prefill(TOKENS))
    assert total(store.stats(), "leases_open") == 1
    with store.read(handoff.chain, lease=handoff.leased(), purpose=Purpose.HANDOFF) as reading:
        assert [block.token_count for block, _ in reading] == [16, 16, 16, 5]
    eventually_rests(store)

    again = prefill.prefill(Prompt(TOKENS), call())
    assert dict(again.reuse.reused) == {"cpu": 48} and again.reuse.computed == 5
    assert again.chain.keys[:3] == handoff.chain.keys[:3] and again.chain.keys[3] != handoff.chain.keys[3]
    prefill.give_up(again)
    eventually_rests(store)
    assert store.lookup(again.chain).ready == 3
    salted = prefill.prefill(Prompt(TOKENS, salts=(b"other",)), call())
    assert not salted.reuse.reused and not set(salted.chain.keys) & set(handoff.chain.keys)


@pytest.mark.parametrize("tokens", [53, 48, 5])
def test_a_tail_names_the_block_before_it(engine: HfEngine, make_store: Callable[..., Any], tokens: int) -> None:
    tiered = make_store()
    store = tiered.namespace("default")
    handoff = worker(engine, store).prefill(Prompt(TOKENS[:tokens]), call())
    keys = chain(engine.spec, TOKENS[:tokens])
    assert len(handoff.chain) == len(keys) + (tokens % 16 > 0)
    entries = [tiered.index.get(Name(store.namespace, key)) for key in handoff.chain.keys]
    parents = [Header.parse(entry.slot.bytes).parent for entry in entries]
    # which the store gives up only after the tail
    assert parents == [bytes(PARENT_BYTES), *(key[:PARENT_BYTES] for key in handoff.chain.keys[:-1])]


def test_what_the_store_cannot_keep_makes_the_handoff_shorter(engine: HfEngine, make_store: Callable[..., Any]) -> None:
    tiered = make_store("64KiB")
    store = tiered.namespace("default")
    keys = chain(engine.spec, TOKENS)
    # leased blocks may not leave, so there is room for part of the prompt only
    held = []
    for seed in range(3, 40):
        tokens = [seed] * 16
        full = worker(engine, store).prefill(Prompt(tokens), call())
        held.append(full)
        if not len(full.chain):
            break
    assert total(store.stats(), "put_not_kept")
    store.release(held[0].leased())
    store.release(held[1].leased())
    handoff = worker(engine, store).prefill(Prompt(TOKENS), call())
    assert 0 < len(handoff.chain) < 4 and not handoff.tail_tokens
    assert handoff.position == 16 * len(handoff.chain)
    handoff.check(keys, 53, 16, engine.vocabulary)


def test_a_block_that_another_worker_is_writing(engine: HfEngine, make_store: Callable[..., Any]) -> None:
    store = make_store().namespace("default")
    keys = chain(engine.spec, TOKENS)
    plan = BlockPlan(keys.keys[1], 16, engine.spec.planes())
    with store.put(keys.fingerprint, [plan]):
        short = worker(engine, store, wait=0.01).prefill(Prompt(TOKENS), call())
        assert short.position == 16 and len(short.chain) == 1
        # nobody could reach the tail behind the gap
        assert total(store.stats(), "tier_blocks") == 2
    other = worker(engine, store, wait=5.0)
    with store.put(keys.fingerprint, [plan]) as put:
        threading.Timer(0.1, put.abort).start()
        started = time.monotonic()
        whole = other.prefill(Prompt(TOKENS), call())
        assert whole.position == 53 and time.monotonic() - started < 4


def test_giving_up_leaves_nothing(engine: HfEngine, make_store: Callable[..., Any]) -> None:
    tiered = make_store()
    store = tiered.namespace("default")
    prefill = worker(engine, store)
    long = TOKENS * 19
    for end in ("abort", "deadline"):
        over = call(10.0 if end == "abort" else 0.05)
        until = threading.Thread(target=lambda over=over: _abort_when_open(store, over))
        if end == "abort":
            until.start()
        with pytest.raises((Aborted, DeadlineExceeded)):
            prefill.prefill(Prompt(long), over)
        if end == "abort":
            until.join()
        assert rests(store) and total(store.stats(), "tier_blocks") == 0
    figures = list(prefill.counters.figures())
    assert total(figures, "requests") == total(figures, "requests_failed") == 2
    assert total(figures, "requests_failed", reason="deadline") == 1


def _abort_when_open(store: LocalStore, over: Call) -> None:
    until = time.monotonic() + 5
    while not total(store.stats(), "puts_open") and time.monotonic() < until:
        time.sleep(0.001)
    over.abort()


def test_without_the_store_there_is_no_handoff(engine: HfEngine) -> None:
    with RemoteStore("127.0.0.1:9") as store:
        prefill = worker(engine, store)
        for tokens in (TOKENS, TOKENS[:5]):
            with pytest.raises(Unavailable):
                prefill.prefill(Prompt(tokens), call())
    figures = list(prefill.counters.figures())
    assert total(figures, "requests_failed", reason="unavailable") == 2


def test_off_is_not_for_handoffs(engine: HfEngine, make_store: Callable[..., Any]) -> None:
    store = make_store().namespace("default")
    with pytest.raises(InvalidArgument, match="OFF"):
        worker(engine, store).prefill(Prompt(TOKENS, cache=CacheUse.OFF), call())
    assert not total(store.stats(), "lookups") and not total(store.stats(), "put_blocks")
