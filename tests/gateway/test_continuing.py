"""A worker that is lost in the middle of an answer: another one goes on, and nobody sees where."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from cachestore.block import BlockSpec
from cachestore.codecs import create
from cachestore.engine.model import model_spec
from cachestore.engine.settings import EngineSettings
from cachestore.engine.stopping import Stop
from cachestore.errors import CacheStoreError, DeadlineExceeded, InternalError, Overloaded, Unavailable
from cachestore.eviction.lru import Lru
from cachestore.hashing import fingerprint
from cachestore.metrics import Counters, total
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.tiered import TieredStore
from cachestore.tiers.cpu import Cpu
from cachestore.wire import worker_pb2 as wire
from gateway.generating import SETTLE, Generating
from gateway.keys import ANYBODY
from gateway.prefixes import Prefixes
from gateway.prompts import Asked
from gateway.routing.least_loaded import LeastLoaded
from gateway.served import Served
from gateway.text import Choice, Piece
from gateway.workers import Workers
from tests.gateway.conftest import END
from tests.gateway.scripted import COUNT, PROMPT, TALE, WORDS, Scripted, serving


@pytest.fixture(scope="module")
def spec(byte_model: object) -> BlockSpec:
    return model_spec(EngineSettings(str(byte_model), block_tokens=16))


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with TieredStore(Cpu(16 << 20).start(), (), create("raw"), Lru()) as kept:
        with CacheStoreServer(kept, ServiceSettings(port=0)) as server:
            yield server.address


@dataclass
class Told:
    """What the client would have seen, and what it cost."""

    pieces: list[Piece]
    choice: Choice
    error: CacheStoreError | None
    counters: Counters
    workers: Sequence[Scripted]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def counted(self, name: str) -> int:
        return total(list(self.counters.figures()), name)


@pytest.fixture
def ask(spec: BlockSpec, store: str) -> Callable[..., Told]:
    served = Served("tiny", WORDS, spec, 1024, 257, frozenset({END}))

    def asked(
        *ends: Sequence[tuple[int, str]], stop: Stop | None = None, logprobs: int | None = None, patience: float = 5.0,
        seconds: float = 20.0, stall: float = 5.0, reading: float = 0.0,
    ) -> Told:  # fmt: skip
        workers = [Scripted(each) for each in ends]
        choice = Choice(served, Asked(PROMPT, wire.Sampling(seed=7), stop or Stop(COUNT), logprobs))
        told = Told([], choice, None, Counters(), workers)

        async def run(remote: RemoteStore, members: list[Member]) -> None:
            known = Workers([store], fingerprint(spec), 0.05, 0.1, stall)
            prefixes = Prefixes(fingerprint(spec))
            generating = Generating(served, known, prefixes, LeastLoaded(), told.counters, patience)
            await known.open()
            try:
                async for piece in generating.pieces(choice, ANYBODY, "", time.monotonic() + seconds):
                    told.pieces.append(piece)
                    if len(told.pieces) == 1:
                        await asyncio.sleep(reading)
            except CacheStoreError as error:
                told.error = error
            finally:
                await known.close()
                prefixes.close()

        with RemoteStore(store) as remote:
            served_by = [serving(worker) for worker in workers]
            addresses = [each.__enter__() for each in served_by]
            members = [
                Member("decode", str(number), address, "here", bytes(16), fingerprint=fingerprint(spec))
                for number, address in enumerate(addresses)
            ]
            try:
                for member in members:
                    remote.register(member, 60)
                asyncio.run(run(remote, members))
            finally:
                for member in members:
                    remote.register(replace(member), 0)
                for each in served_by:
                    each.__exit__(None, None, None)
        return told

    return asked


def requests(told: Told) -> list[wire.GenerateRequest]:
    """In the order in which they were sent: later ones have more tokens."""
    return sorted((each for worker in told.workers for each in worker.asked), key=lambda each: len(each.tokens))


@pytest.mark.parametrize("how", ["away", "aborted", "", "silent"])
def test_the_text_is_the_same_as_without_it(ask: Callable[..., Told], how: str) -> None:
    told = ask([(20, how)], [(20, how)], stall=0.3, logprobs=0)
    assert told.error is None and told.text == TALE
    first, second, *_ = requests(told)
    assert list(second.tokens) == [*PROMPT, *WORDS.encode(TALE[:20])] and second.sampling == first.sampling
    assert second.max_tokens == COUNT - 20 and second.request_id != first.request_id
    assert told.counted("continued") >= 1
    # usage and logprobs are those of one answer
    assert (told.choice.count, told.choice.cached) == (COUNT, len(PROMPT) - 1)
    assert [piece.told.drawn.logprob for piece in told.pieces if piece.told] == [-0.5 * at for at in range(COUNT)]
    assert [piece.finish for piece in told.pieces if piece.finish] == ["length"]


def test_a_stop_string_ends_it_also_across_the_seam(ask: Callable[..., Told]) -> None:
    told = ask([(14, "away")], [(14, "away")], stop=Stop(COUNT, strings=("time there",)))
    assert told.text == TALE[: TALE.index("time there")] and told.pieces[-1].finish == "stop"


def test_a_worker_is_told_of_a_stop_string_and_of_nothing_else(ask: Callable[..., Told]) -> None:
    """It knows no strings; ended well, it stores what it made."""
    begun = time.monotonic()
    told = ask([(30, "finish")], stop=Stop(COUNT, strings=("time there",)))
    (worker,) = told.workers
    assert worker.finished == [worker.asked[0].request_id] and told.text == "Once upon a "
    assert time.monotonic() - begun < SETTLE, "the usage ends the wait"
    assert ask([]).workers[0].finished == []


def test_before_the_first_token_it_is_simply_elsewhere(ask: Callable[..., Told]) -> None:
    told = ask([(0, "away")], [(0, "full")], [])
    assert told.error is None and told.text == TALE and told.counted("continued") == 0


def test_again_and_again(ask: Callable[..., Told]) -> None:
    told = ask([(9, "away")] * 9, [(9, "away")] * 9)
    assert told.error is None and told.text == TALE and told.counted("continued") == COUNT // 9


def test_one_that_is_full_in_the_middle_is_asked_again(ask: Callable[..., Told]) -> None:
    told = ask([(9, "away"), (0, "full")])
    assert told.error is None and told.text == TALE


@pytest.mark.parametrize(
    ("ends", "error"), [([(0, "away")], Unavailable), ([(0, "full")], Overloaded), ([(0, "bug")], InternalError)]
)
def test_nobody_waits_before_the_first_token(
    ask: Callable[..., Told], ends: list[tuple[int, str]], error: type[CacheStoreError]
) -> None:
    told = ask(ends * 9, patience=30.0)
    assert type(told.error) is error and "127.0.0.1" not in str(told.error) and told.text == ""
    assert len(told.workers[0].asked) == 1


@pytest.mark.parametrize("ways", [("full", "away"), ("away", "full")])
def test_where_one_is_full_the_client_is_told_so(ask: Callable[..., Told], ways: tuple[str, str]) -> None:
    """Whichever is asked first: it will take requests again."""
    told = ask(*([(0, how)] for how in ways))
    assert type(told.error) is Overloaded and told.counted("worker_failures") == 2


def test_the_first_cause_is_told(ask: Callable[..., Told]) -> None:
    told = ask([(9, "away"), *[(0, "full")] * 99], patience=0.5)
    assert type(told.error) is Unavailable and "unavailable, then overloaded" in str(told.error)


def test_patience_ends(ask: Callable[..., Told]) -> None:
    told = ask([(9, "away"), *[(0, "away")] * 99], patience=0.5)
    assert type(told.error) is Unavailable and "in the middle" in str(told.error) and told.text == TALE[:9]


@pytest.mark.parametrize("how", ["away", "silent"])
def test_the_deadline_is_kept(ask: Callable[..., Told], how: str) -> None:
    begun = time.monotonic()
    told = ask([(9, how), *[(0, how)] * 99], seconds=0.4, patience=30.0)
    assert type(told.error) is DeadlineExceeded and told.text == TALE[:9]
    assert time.monotonic() - begun < 0.4 + 1.0 + 1.0


def test_a_reader_that_is_slow_is_no_silence_of_the_worker(ask: Callable[..., Told]) -> None:
    told = ask([], stall=0.5, reading=1.0)
    assert told.error is None and told.text == TALE and told.counted("worker_failures") == 0
    assert len(told.workers[0].asked) == 1


def test_a_first_token_may_take_its_time(ask: Callable[..., Told]) -> None:
    """Silence is a queue as long as the worker is in the cluster map."""
    told = ask([(0, "silent")], stall=0.1, seconds=0.5)
    assert type(told.error) is DeadlineExceeded and len(told.workers[0].asked) == 1
