"""Handoffs that are short, late, corrupt or false: the tokens are those of the engine alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cachestore.deadline import Deadline
from cachestore.engine.hf import HfEngine
from cachestore.engine.sampling import Sampler, Sampling
from cachestore.errors import Overloaded
from cachestore.hashing import Chain, chain
from cachestore.index import Name
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from decode_worker.asking import Handed
from decode_worker.request import Request, Token, Usage
from decode_worker.settings import DecodeSettings
from decode_worker.worker import DecodeWorker
from prefill_worker.call import Call
from prefill_worker.handoff import Handoff
from prefill_worker.prompt import Prompt
from prefill_worker.settings import PrefillSettings
from prefill_worker.worker import PrefillWorker

TOKENS = [3 + number * 11 % 90 for number in range(53)]
SAMPLING = Sampling(temperature=1.0, top_k=30, seed=12)


def call() -> Call:
    return Call(Deadline.after(20))


class Served:
    """A store server, and both workers in this process; `hand` stands between them."""

    def __init__(self, engine: HfEngine, server: Any) -> None:
        self.engine, self.server = engine, server
        self.store = RemoteStore(server.address)
        self.prefill = PrefillWorker(engine, self.store, server.address, PrefillSettings())
        self.decode = DecodeWorker(engine, self.store, server.address, DecodeSettings(store_timeout=1.0))

    def made(self) -> Handoff:
        return self.prefill.prefill(Prompt(TOKENS, SAMPLING), call())

    def generate(self, handoff: Handoff, max_tokens: int = 20) -> tuple[list[int], Usage]:
        class Given:
            def ask(self, *_: Any) -> Handed:
                return Handed(handoff, "p")

        self.decode.asking = Given()  # type: ignore[assignment]
        made = list(self.decode.generate(Request(Prompt(TOKENS, SAMPLING), max_tokens), call()))
        usage = made.pop()
        assert isinstance(usage, Usage)
        return [token.id for token in made if isinstance(token, Token)], usage

    def counted(self, name: str, **labels: str) -> int:
        return total(list(self.decode.counters.figures()), name, **labels)


@pytest.fixture
def served(engine: HfEngine, serve: Callable[..., Any]) -> Iterator[Served]:
    cluster = Served(engine, serve())
    with cluster.store:
        yield cluster
        cluster.decode.close()


def expected(engine: HfEngine, count: int = 20) -> list[int]:
    sequence, sampler = engine.sequence(), Sampler(SAMPLING)
    made = [sampler.pick(sequence.prefill(TOKENS))]
    while len(made) < count and made[-1] not in engine.eos_tokens:
        made.append(sampler.pick(sequence.decode(made[-1])))
    return made


def no_leases(served: Served) -> bool:
    return not total(served.store.stats(), "leases_open")


def test_a_whole_handoff(served: Served) -> None:
    made, usage = served.generate(served.made())
    assert made == expected(served.engine) and len(set(made)) > 4
    assert usage.loaded_tokens == 53 and usage.prefilled_by == "p" and no_leases(served)
    assert not served.counted("recomputed_tokens") and not served.counted("fallback_handoff")


def short(served: Served, handoff: Handoff) -> Handoff:
    served.store.release(handoff.leased())
    lease = served.store.lease(handoff.chain.first(2))
    return replace(handoff, chain=handoff.chain.first(2), tail_tokens=0, position=32, lease=lease.id)


def empty(served: Served, handoff: Handoff) -> Handoff:
    served.store.release(handoff.leased())
    return replace(handoff, chain=handoff.chain.first(0), tail_tokens=0, position=0, lease=b"")


def unleased(served: Served, handoff: Handoff) -> Handoff:
    served.store.release(handoff.leased())
    return handoff


def elsewhere(served: Served, handoff: Handoff) -> Handoff:
    served.store.release(handoff.leased())
    return replace(handoff, store="127.0.0.1:9")


def corrupt(served: Served, handoff: Handoff) -> Handoff:
    local = served.server._store
    for key in handoff.chain.keys[1:]:
        entry = local.index.get(Name(local.namespace("default").namespace, key))
        data = entry.slot.bytes
        data[data.nbytes - 100] = np.bitwise_xor(data[data.nbytes - 100], 1)
    return handoff


@pytest.mark.parametrize(
    ("spoil", "loaded", "reason"),
    [
        (short, 32, ""),
        (empty, 0, ""),
        (unleased, 0, "lease_expired"),
        (elsewhere, 0, "unavailable"),
        (corrupt, 16, "missing"),
    ],
)
def test_what_is_missing_is_computed_here(
    spoil: Callable[[Served, Handoff], Handoff], loaded: int, reason: str, served: Served
) -> None:
    made, usage = served.generate(spoil(served, served.made()))
    assert made == expected(served.engine)
    assert usage.loaded_tokens == loaded and served.counted("recomputed_tokens") == 53 - loaded
    assert served.counted("fallback_handoff") == served.counted("fallback_handoff", reason=reason) == bool(reason)
    assert no_leases(served)
    if spoil is corrupt:
        assert total(served.store.stats(), "corruptions") == 1
        # what was found corrupt was dropped, computed here and stored again
        assert served.store.lookup(chain(served.engine.spec, TOKENS)).ready >= 2


def test_a_store_that_refuses_the_read_loses_its_lease_too(served: Served) -> None:
    handoff = served.made()

    class Refusing:
        def read(self, *_: Any, **__: Any) -> Any:
            raise Overloaded("full")

        def __getattr__(self, name: str) -> Any:
            return getattr(served.store, name)

    served.decode.stores.own = Refusing()  # type: ignore[assignment]
    made, usage = served.generate(handoff)
    assert made == expected(served.engine) and usage.loaded_tokens == 0
    assert served.counted("fallback_handoff", reason="overloaded") == 1 and no_leases(served)


def test_one_token_needs_no_blocks(served: Served) -> None:
    handoff = served.made()
    made, usage = served.generate(handoff, 1)
    assert made == expected(served.engine, 1) and usage.loaded_tokens == 0 and no_leases(served)
    assert served.store.lookup(handoff.chain).ready == 3


def test_a_handoff_of_another_prompt_is_refused(served: Served) -> None:
    foreign = served.prefill.prefill(Prompt(TOKENS[1:], SAMPLING), call())
    failed: list[str] = []

    class Client:
        def prefill(self, *_: Any, **__: Any) -> Handoff:
            return foreign

    class Workers:
        def best(self, _: bytes, but: set[Any]) -> Any:
            return None if but else Member("prefill", "liar", "127.0.0.1:1", "here", b"1")

        @contextmanager
        def asking(self, _: Any) -> Iterator[Client]:
            yield Client()

        def failed(self, member: Any) -> None:
            failed.append(member.name)

    served.decode.asking.workers = Workers()  # type: ignore[assignment]
    keys: Chain = chain(served.engine.spec, TOKENS)
    assert served.decode.asking.ask(Prompt(TOKENS, SAMPLING), keys, call()) is None
    assert failed == ["liar"] and served.counted("fallback_prefill", reason="mismatch") == 1 and no_leases(served)


def test_a_reader_that_leaves_behind_the_first_token(served: Served) -> None:
    handoff = served.made()

    class Given:
        def ask(self, *_: Any) -> Handed:
            return Handed(handoff, "p")

    served.decode.asking = Given()  # type: ignore[assignment]
    answers = served.decode.generate(Request(Prompt(TOKENS, SAMPLING), 20), call())
    assert next(answers) == Token(handoff.first_token, 0, handoff.reuse)
    answers.close()
    assert no_leases(served) and served.counted("requests_failed", reason="left") == 1
    assert served.store.lookup(handoff.chain).ready == 3
