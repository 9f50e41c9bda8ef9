"""Prefills that are short, late, cut off or false: the tokens are those of a lone run, and nothing is left behind."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from cachestore.deadline import Deadline
from cachestore.engine.batch_loop import BatchLoop
from cachestore.engine.paged_model import PagedModel
from cachestore.engine.sampling import Sampling
from cachestore.engine.stopping import Stop
from cachestore.errors import Aborted, InvalidArgument, Overloaded, Unavailable
from cachestore.hashing import chain
from cachestore.metrics import total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.transports import ALL
from decode_worker.choosing import place
from decode_worker.request import LOCAL, Request, Usage
from decode_worker.settings import DecodeSettings
from decode_worker.worker import DecodeWorker
from prefill_worker.call import Call
from prefill_worker.connecting import OwnPages, TheirPages
from prefill_worker.handoff import Begun, Handoff, Progress, Told
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.settings import PrefillSettings
from prefill_worker.stores import Stores
from prefill_worker.token import Token
from prefill_worker.worker import PrefillWorker
from tests.workers.loops import lone

TOKENS = [3 + number * 11 % 90 for number in range(53)]
SAMPLING = Sampling(temperature=1.0, top_k=30, seed=12)
MEMBERS = [Member("prefill", name, "127.0.0.1:1", "here", name.encode()) for name in "pq"]


def call(seconds: float = 20.0) -> Call:
    return Call(Deadline.after(seconds))


def whole(_: "Served", told: Iterator[Told]) -> Iterator[Told]:
    return told


class Prefilling:
    """What the prefill worker tells, as `served.spoil` lets it through."""

    def __init__(self, served: "Served", prompt: Prompt, logprobs: int | None) -> None:
        self.call = call()
        self.told = served.spoil(served, served.prefill.prefill(prompt, self.call, logprobs))

    def __iter__(self) -> Iterator[Told]:
        return self.told

    def cancel(self) -> None:
        self.call.abort()


class Served:
    """A store server and both workers in this process. In place of a connection between them stands `spoil`."""

    def __init__(
        self,
        model: PagedModel,
        open_loop: Callable[..., BatchLoop],
        server: Any,
        batch: Any = None,
        transports: Sequence[str] = ALL,
        **settings: Any,
    ) -> None:
        self.model = model
        self.spoil: Callable[[Served, Iterator[Told]], Iterator[Told]] = whole
        self.store = RemoteStore(server.address, transports=transports)
        stores = Stores(self.store, server.address)
        self.prefill = PrefillWorker(model, open_loop(), stores, 8, PrefillSettings(lease=2.0))
        decode = DecodeSettings(**{"local_prefill_tokens": 0, "prefill_attempts": 1, **settings})
        self.decode = DecodeWorker(model, open_loop(**(batch or {})), stores, 8, decode, self.store)
        self.prefillings: list[Prefilling] = []
        workers: Any = self.decode.workers
        workers.best = lambda _, but: next((each for each in MEMBERS if place(each) not in but), None)
        workers.asking = self._asking

    @contextmanager
    def _asking(self, _: Member) -> Iterator[Any]:
        class Client:
            def prefill(_, prompt: Prompt, *__: Any, logprobs: int | None, **___: Any) -> Prefilling:
                self.prefillings.append(Prefilling(self, prompt, logprobs))
                return self.prefillings[-1]

        yield Client()

    def request(self, max_tokens: int = 20, **prompt: Any) -> Request:
        return Request(Prompt(TOKENS, SAMPLING, **prompt), max_tokens)

    def ask(self, max_tokens: int = 20, **prompt: Any) -> tuple[list[int], Usage]:
        made = list(self.decode.generate(self.request(max_tokens, **prompt), call()))
        usage = made.pop()
        assert isinstance(usage, Usage)
        assert usage.reuse.computed + sum(usage.reuse.reused.values()) == 53
        assert isinstance(made[0], Token) and made[0].reuse == usage.reuse
        return [token.id for token in made if isinstance(token, Token)], usage

    def counted(self, name: str, **labels: str) -> int:
        return total(self.decode.figures(), name, **labels)

    def at_rest(self) -> bool:
        store, workers = self.store.stats(), (self.prefill.figures(), self.decode.figures())
        return not (
            total(store, "leases_open")
            or total(store, "puts_open")
            or any(total(figures, "pages_referenced") for figures in workers)
            or any(thread.name == "handoff" for thread in threading.enumerate())
        )


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture
def make_served(
    model: PagedModel, open_loop: Callable[..., BatchLoop], serve: Callable[..., Any]
) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(**settings: Any) -> Served:
        served = Served(model, open_loop, serve(), **settings)
        served.store.open()
        made.append(served)
        return served

    try:
        yield make
        for served in made:
            eventually(served.at_rest)
    finally:
        for served in made:
            served.decode.close()
            served.prefill.close()
            served.store.close()


@pytest.fixture
def served(make_served: Callable[..., Served]) -> Served:
    return make_served()


@pytest.fixture(scope="module")
def right(model: PagedModel) -> list[int]:
    made = lone(model, TOKENS, 20, SAMPLING)
    assert len(set(made)) > 4
    return made


def test_a_whole_handoff(served: Served, right: list[int]) -> None:
    made, usage = served.ask()
    assert made == right and usage.prefilled_by == "p" and usage.loaded_tokens == 48
    assert usage.reuse.computed == 53 and served.counted("handoffs") == 1 and not served.counted("fallback_prefill")
    # the last token was never computed, all other blocks are stored
    keys = chain(served.model.spec, [*TOKENS, *made[:-1]])
    assert served.store.lookup(keys).ready == len(keys) == (52 + len(made)) // 16


@pytest.mark.parametrize(("transports", "used"), [(ALL, "shared"), (("bulk", "stream"), "stream")])
def test_how_the_blocks_of_a_handoff_travel(
    transports: Sequence[str], used: str, make_served: Callable[..., Served], right: list[int]
) -> None:
    """Out of the memory of a store on this node; from another node they are followed, which the stream does."""
    served = make_served(transports=transports)
    made, usage = served.ask()
    assert made == right and usage.prefilled_by == "p" and usage.loaded_tokens == 48
    figures = served.store.stats()
    assert total(figures, "transport_read_blocks", transport=used) == total(figures, "transport_read_blocks") == 3


def test_blocks_in_pages_of_the_prefill_worker(make_served: Callable[..., Served], right: list[int]) -> None:
    """They are read from there, and from the store once they have left; the lease is the store's in any case."""
    served, own = make_served(), OwnPages("raw", "cpu", 4 << 20)
    address = served.prefill.stores.address
    own.open()
    with own.connect(address) as written, TheirPages("raw", "cpu").connect(address) as read:
        served.prefill.stores, served.decode.stores = Stores(written, address), Stores(read, address)
        made, usage = served.ask()
        assert made == right and usage.prefilled_by == "p" and usage.loaded_tokens == 48
        figures = served.store.stats()
        assert total(figures, "read_hits", tier="gpu", purpose="handoff") == 3 == total(figures, "read_blocks")
        assert total(figures, "tier_blocks", tier="gpu") == 3 <= total(figures, "tier_blocks", tier="cpu")
        # a worker that has computed nothing yet finds the same there
        keys = chain(served.model.spec, TOKENS)
        assert read.lookup(keys).runs[0].tier == "gpu"
        eventually(served.at_rest)
    own.close()
    assert total(served.store.stats(), "tier_blocks", tier="gpu") == 0
    assert served.store.lookup(keys).runs[0].tier == "cpu"


def test_prompts_that_are_prefilled_here(make_served: Callable[..., Served], right: list[int]) -> None:
    served = make_served(local_prefill_tokens=5)
    assert served.ask()[1].prefilled_by == "p"
    for prompt, reused in (({}, {"engine": 48}), ({"cache": CacheUse.OFF}, {})):
        made, usage = served.ask(**prompt)
        assert made == right and usage.prefilled_by == LOCAL and usage.reuse.reused == reused
    stored = make_served(local_prefill_tokens=5)
    for told in stored.prefill.prefill(Prompt(TOKENS), call()):
        if isinstance(told, Handoff):
            stored.prefill.release(call().caller, told)
    made, usage = stored.ask()
    assert made == right and usage.prefilled_by == LOCAL and usage.reuse.reused == {"cpu": 48}
    assert not stored.prefillings and len(served.prefillings) == 1


def test_off_leaves_nothing_for_others(served: Served, right: list[int]) -> None:
    for _ in range(2):
        made, usage = served.ask(cache=CacheUse.OFF)
        assert made == right and usage.reuse.reused == {}
    assert not total(served.store.stats(), "put_blocks") and not total(served.store.stats(), "lookups")


def dies_at_once(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    raise Unavailable("gone")
    yield


def dies_behind_begun(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    for each in told:
        if not isinstance(each, Token):
            yield each
        if isinstance(each, Begun):
            told.close()  # type: ignore[attr-defined]
            raise Unavailable("gone")


def dies_behind_the_token(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    for each in told:
        if isinstance(each, Handoff):
            told.close()  # type: ignore[attr-defined]
            raise Unavailable("gone")
        yield each


def says_nothing(served: Served, told: Iterator[Told]) -> Iterator[Told]:
    eventually(lambda: served.prefillings and served.prefillings[-1].call.aborted)
    raise Aborted("cancelled")
    yield


def falls_silent_behind_begun(served: Served, told: Iterator[Told]) -> Iterator[Told]:
    yield Begun(served.decode.stores.address)
    time.sleep(0.3)
    raise Unavailable("it said nothing for 0.3 s")


def never_comes_to_an_end(served: Served, told: Iterator[Told]) -> Iterator[Told]:
    yield Begun(served.decode.stores.address)
    while not served.prefillings[-1].call.aborted:
        yield Progress(16)
        time.sleep(0.02)
    raise Aborted("cancelled")


def tells_a_foreign_token(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    for each in told:
        yield replace(each, id=97) if isinstance(each, Token) else each


def names_another_store(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    for each in told:
        yield Begun("127.0.0.1:9") if isinstance(each, Begun) else each


def names_no_store(served: Served, told: Iterator[Told]) -> Iterator[Told]:
    for each in told:
        yield Begun("nowhere at all") if isinstance(each, Begun) else each


def ends_too_early(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    yield Begun("127.0.0.1:9")


def is_full(_: Served, told: Iterator[Told]) -> Iterator[Told]:
    raise Overloaded("full")
    yield


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (dies_at_once, "unavailable"),
        (dies_behind_begun, "unavailable"),
        (dies_behind_the_token, "unavailable"),
        (says_nothing, "deadline"),
        (falls_silent_behind_begun, "unavailable"),
        (tells_a_foreign_token, "mismatch"),
        (ends_too_early, "unavailable"),
        (is_full, "overloaded"),
        (names_another_store, ""),
        (names_no_store, ""),
    ],
)
def test_what_does_not_come_is_computed_here(
    spoil: Any, reason: str, make_served: Callable[..., Served], right: list[int]
) -> None:
    served = make_served(prefill_begin=0.3)
    served.spoil = spoil
    begun = time.monotonic()
    made, usage = served.ask()
    assert made == right and time.monotonic() - begun < 5
    assert served.counted("fallback_prefill") == served.counted("fallback_prefill", reason=reason) == bool(reason)
    assert usage.prefilled_by == ("p" if spoil in (dies_behind_the_token, names_another_store) else LOCAL)


def test_half_of_the_time_is_left_where_one_is_too_slow(served: Served, right: list[int]) -> None:
    """It begins, and says that it goes on, and does not."""
    served.spoil = never_comes_to_an_end
    begun = time.monotonic()
    made = list(served.decode.generate(served.request(), call(4.0)))
    usage = made.pop()
    assert isinstance(usage, Usage) and usage.prefilled_by == LOCAL and time.monotonic() - begun < 4.0
    assert [token.id for token in made if isinstance(token, Token)] == right
    assert served.counted("fallback_prefill") == served.counted("fallback_prefill", reason="deadline") == 1
    assert served.prefillings[0].call.aborted


def test_a_short_handoff(served: Served, right: list[int]) -> None:
    def shorter(served: Served, told: Iterator[Told]) -> Iterator[Told]:
        for each in told:
            if isinstance(each, Handoff):
                served.store.delete(chain(served.model.spec, TOKENS).behind(1))
                each = Handoff(each.lease, 1)
            if not isinstance(each, Begun):
                yield each
            if isinstance(each, Token):
                # nothing is being written any more when the reading begins
                eventually(lambda: not total(served.store.stats(), "puts_open"))
        yield Begun(served.decode.stores.address)

    served.spoil = shorter
    begun = time.monotonic()
    made, usage = served.ask()
    assert made == right and usage.prefilled_by == "p" and time.monotonic() - begun < 5


def test_the_next_worker_is_asked(make_served: Callable[..., Served], right: list[int]) -> None:
    served = make_served(prefill_attempts=2)
    served.spoil = lambda served, told: told if served.prefillings else is_full(served, told)
    made, usage = served.ask()
    assert made == right and usage.prefilled_by == "q"
    assert served.counted("fallback_prefill", reason="overloaded") == 1 == served.counted("handoffs")


def test_more_than_it_takes(make_served: Callable[..., Served], right: list[int]) -> None:
    """Whoever had a prefill begun for nothing has it given up."""
    served = make_served(batch={"max_batch": 1, "max_waiting": 1})
    loop = served.decode.loop
    asked = served.decode.asked(Prompt(TOKENS, SAMPLING), Stop(900), call())
    with loop.submit(asked) as running:
        next(running)
        with loop.submit(asked), pytest.raises(Overloaded, match="try again later or elsewhere"):
            next(served.decode.generate(served.request(), call()))
    assert served.counted("requests_refused", reason="overloaded") == 1
    eventually(lambda: not served.decode.queue)
    assert served.ask()[0] == right


def test_one_token_needs_no_blocks(served: Served, right: list[int]) -> None:
    made, usage = served.ask(1)
    assert made == right[:1] and usage.prefilled_by == "p"


@pytest.mark.parametrize("moment", ["asking", "reading", "generating"])
@pytest.mark.parametrize("how", ["abort", "finish", "leave"])
def test_whenever_it_ends_nothing_is_left(moment: str, how: str, served: Served, right: list[int]) -> None:
    """Also what the prefill worker does for it ends."""
    reached = threading.Event()

    def held(served: Served, told: Iterator[Told]) -> Iterator[Told]:
        for each in told:
            if moment == "asking" or isinstance(each, Token | Handoff):
                reached.set()
                eventually(lambda: served.prefillings and served.prefillings[-1].call.aborted)
                told.close()  # type: ignore[attr-defined]
                raise Aborted("cancelled")
            yield each

    if moment != "generating":
        served.spoil = held
    over = call()
    answers = served.decode.generate(served.request(500), over)
    made: list[Any] = []
    if moment == "generating":
        made.append(next(answers))
        reached.set()
        if how == "leave":
            answers.close()
            return

    def end() -> None:
        assert reached.wait(10)
        # who leaves while nothing was said yet is heard of as of an abort
        (over.finish if how == "finish" else over.abort)()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        made += answers
        assert how == "finish"
        usage = made.pop()
        tokens = [token.id for token in made]
        assert usage.finish == "stop" and tokens[:20] == right[: len(tokens)]
    except Aborted:
        assert how != "finish"
    thread.join()


def test_what_is_refused(served: Served) -> None:
    for request, wrong in (
        (Request(Prompt([]), 1), "tokens"),
        (Request(Prompt([5]), 0), "max_tokens"),
        (Request(Prompt([5]), 1, frozenset({97})), "stop_tokens"),
        (Request(Prompt([5]), 1, logprobs=21), "logprobs"),
    ):
        with pytest.raises(InvalidArgument, match=wrong):
            next(served.decode.generate(request, call()))


def test_without_a_store_it_goes_on(make_served: Callable[..., Served], right: list[int]) -> None:
    served = make_served(refresh=0.01)
    assert served.ask()[0] == right
    served.decode.workers.store = RemoteStore("127.0.0.1:9")
    with served.decode.workers.store:
        time.sleep(0.02)
        made, usage = served.ask(salts=(b"anew",))
    assert made == right and usage.prefilled_by == LOCAL and usage.reuse.reused == {}
    assert served.counted("fallback_store", doing="map") == 1
